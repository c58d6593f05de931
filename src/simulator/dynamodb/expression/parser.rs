//! The grammar: from tokens to trees, with names and values filled in.

use std::collections::{BTreeMap, BTreeSet};

use super::super::fail::{Failure, Result};
use super::super::value::Value;
use super::condition::{Comparator, Compared, Condition, checked};
use super::keys::KeyCondition;
use super::lexer::{Token, tokens};
use super::path::{Path, Step};
use super::reserved::is_reserved;
use super::update::{Term, Update};

/// LIMIT: operators and functions in one expression, as documented; it bounds the tree too.
const OPERATORS: usize = 300;
/// LIMIT: operands of one `IN`, as documented.
const IN_OPERANDS: usize = 100;

/// `ExpressionAttributeNames` and `ExpressionAttributeValues`, and which of them were used.
#[derive(Debug, Default)]
pub struct Names {
    /// By placeholder, with its `#`.
    pub names: BTreeMap<String, String>,
    /// By placeholder, with its `:`.
    pub values: BTreeMap<String, Value>,
    used: BTreeSet<String>,
}

impl Names {
    /// What a request gives.
    pub fn new(names: BTreeMap<String, String>, values: BTreeMap<String, Value>) -> Self {
        Self { names, values, used: BTreeSet::new() }
    }

    /// To be asked when every expression of a request was read.
    ///
    /// # Errors
    /// A name or a value is not used by any of them.
    pub fn all_used(&self) -> Result<()> {
        let unused = |all: Vec<&String>| {
            let unused: Vec<&str> =
                all.into_iter().filter(|name| !self.used.contains(*name)).map(String::as_str).collect();
            (!unused.is_empty()).then(|| unused.join(", "))
        };
        for (what, keys) in
            [("Names", unused(self.names.keys().collect())), ("Values", unused(self.values.keys().collect()))]
        {
            if let Some(keys) = keys {
                return Err(Failure::invalid(format!(
                    "Value provided in ExpressionAttribute{what} unused in expressions: keys: {{{keys}}}"
                )));
            }
        }
        Ok(())
    }
}

/// Reads a condition or a filter; `what` names the parameter in errors.
///
/// # Errors
/// It is not one.
pub fn condition(text: &str, what: &str, names: &mut Names) -> Result<Condition> {
    let mut parser = Parser::new(text, what, names)?;
    let condition = parser.or()?;
    parser.end()?;
    Ok(condition)
}

/// Reads a key condition for a table or an index with these key attributes.
///
/// # Errors
/// It is not one.
pub fn key_condition(text: &str, hash: &str, range: Option<&str>, names: &mut Names) -> Result<KeyCondition> {
    KeyCondition::of(&condition(text, "KeyConditionExpression", names)?, hash, range)
}

/// Reads a projection.
///
/// # Errors
/// It is not one, or its paths overlap.
pub fn projection(text: &str, names: &mut Names) -> Result<Vec<Path>> {
    let mut parser = Parser::new(text, "ProjectionExpression", names)?;
    let mut paths: Vec<Path> = vec![parser.path()?];
    while parser.take(",") {
        let path = parser.path()?;
        if let Some(other) = paths.iter().find(|other| other.overlaps(&path)) {
            return Err(Failure::invalid(format!(
                "Invalid ProjectionExpression: Two document paths overlap with each other; must remove or rewrite one of \
                 these paths; path one: {other}, path two: {path}"
            )));
        }
        paths.push(path);
    }
    parser.end()?;
    Ok(paths)
}

/// Reads an update.
///
/// # Errors
/// It is not one.
pub fn update(text: &str, names: &mut Names) -> Result<Update> {
    let mut parser = Parser::new(text, "UpdateExpression", names)?;
    let update = parser.update()?;
    update.check()?;
    Ok(update)
}

struct Parser<'a> {
    tokens: Vec<Token>,
    at: usize,
    operators: usize,
    what: &'a str,
    names: &'a mut Names,
}

impl<'a> Parser<'a> {
    fn new(text: &str, what: &'a str, names: &'a mut Names) -> Result<Self> {
        Ok(Self { tokens: tokens(text, what)?, at: 0, operators: 0, what, names })
    }

    fn wrong(&self, text: &str) -> Failure {
        Failure::invalid(format!("Invalid {}: {text}", self.what))
    }

    /// A syntax error at the token that comes next.
    fn unexpected(&self) -> Failure {
        let token = self.tokens.get(self.at).map_or_else(|| "<EOF>".to_owned(), Token::text);
        let from = self.at.saturating_sub(1).min(self.tokens.len());
        let to = (self.at + 2).min(self.tokens.len());
        let near: Vec<String> = self.tokens[from..to].iter().map(Token::text).collect();
        self.wrong(&format!("Syntax error; token: \"{token}\", near: \"{}\"", near.join(" ")))
    }

    fn end(&self) -> Result<()> {
        if self.at == self.tokens.len() { Ok(()) } else { Err(self.unexpected()) }
    }

    fn operator(&mut self) -> Result<()> {
        self.operators += 1;
        if self.operators > OPERATORS {
            return Err(self.wrong("The expression contains too many operators and functions"));
        }
        Ok(())
    }

    fn is_sign(&self, ahead: usize, sign: &str) -> bool {
        matches!(self.tokens.get(self.at + ahead), Some(Token::Sign(found)) if *found == sign)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.is_sign(0, sign);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.tokens.get(self.at), Some(Token::Word(found)) if found.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn or(&mut self) -> Result<Condition> {
        let mut left = self.and()?;
        while self.take_word("OR") {
            self.operator()?;
            left = Condition::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Condition> {
        let mut left = self.not()?;
        while self.take_word("AND") {
            self.operator()?;
            left = Condition::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Condition> {
        if self.take_word("NOT") {
            self.operator()?;
            return Ok(Condition::Not(Box::new(self.not()?)));
        }
        if self.is_sign(0, "(") {
            self.operator()?;
            self.at += 1;
            let doubled = self.is_sign(0, "(");
            let inner = self.or()?;
            let closed_twice = self.at >= 1 && matches!(self.tokens.get(self.at - 1), Some(Token::Sign(")")));
            if doubled && closed_twice && self.one_group() {
                return Err(self.wrong("The expression has redundant parentheses;"));
            }
            self.expect(")")?;
            return Ok(inner);
        }
        self.comparison()
    }

    /// Whether what was just read, up to the token before this one, is one pair of parentheses and nothing beside it.
    fn one_group(&self) -> bool {
        let mut depth = 0usize;
        for at in (0..self.at).rev() {
            match &self.tokens[at] {
                Token::Sign(")") => depth += 1,
                Token::Sign("(") => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return at > 0 && matches!(self.tokens[at - 1], Token::Sign("("));
            }
        }
        false
    }

    fn comparison(&mut self) -> Result<Condition> {
        if let Some(condition) = self.function()? {
            return checked(condition, self.what);
        }
        let left = self.operand()?;
        self.operator()?;
        if self.take_word("BETWEEN") {
            let low = self.operand()?;
            if !self.take_word("AND") {
                return Err(self.unexpected());
            }
            let high = self.operand()?;
            return checked(Condition::Between(left, low, high), self.what);
        }
        if self.take_word("IN") {
            self.expect("(")?;
            let mut list = vec![self.operand()?];
            while self.take(",") {
                list.push(self.operand()?);
            }
            self.expect(")")?;
            if list.len() > IN_OPERANDS {
                return Err(self.wrong(&format!(
                    "The IN operator is provided with too many operands; number of operands: {}",
                    list.len()
                )));
            }
            return checked(Condition::In(left, list), self.what);
        }
        let how = match self.tokens.get(self.at) {
            Some(Token::Sign(sign)) => Comparator::of(sign),
            _ => None,
        };
        let how = how.ok_or_else(|| self.unexpected())?;
        self.at += 1;
        let right = self.operand()?;
        checked(Condition::Compare(how, left, right), self.what)
    }

    /// A function that is a condition by itself.
    fn function(&mut self) -> Result<Option<Condition>> {
        let Some(Token::Word(name)) = self.tokens.get(self.at) else { return Ok(None) };
        if !self.is_sign(1, "(") || name == "size" {
            return Ok(None);
        }
        let name = name.clone();
        self.operator()?;
        self.at += 2;
        let condition = match name.as_str() {
            "attribute_exists" => Condition::Exists(self.path()?),
            "attribute_not_exists" => Condition::Absent(self.path()?),
            "attribute_type" => {
                let path = self.path()?;
                self.expect(",")?;
                match self.operand()? {
                    Compared::Value(Value::S(kind)) if KINDS.contains(&kind.as_str()) => Condition::HasType(path, kind),
                    Compared::Value(Value::S(kind)) => {
                        return Err(self.wrong(&format!(
                            "Invalid attribute type name found; type: {kind}, valid types: {{B,NULL,SS,BOOL,L,BS,N,NS,S,M}}"
                        )));
                    }
                    _ => {
                        return Err(self.wrong(
                            "Incorrect operand type for operator or function; operator or function: attribute_type, \
                             operand type: not S",
                        ));
                    }
                }
            }
            "begins_with" | "contains" => {
                let value = self.operand()?;
                self.expect(",")?;
                let part = self.operand()?;
                if name == "contains" { Condition::Contains(value, part) } else { Condition::BeginsWith(value, part) }
            }
            _ => return Err(self.wrong(&format!("Invalid function name; function: {name}"))),
        };
        self.expect(")")?;
        Ok(Some(condition))
    }

    fn operand(&mut self) -> Result<Compared> {
        match self.tokens.get(self.at) {
            Some(Token::Value(_)) => Ok(Compared::Value(self.value()?)),
            Some(Token::Word(word)) if word == "size" && self.is_sign(1, "(") => {
                self.operator()?;
                self.at += 2;
                let path = self.path()?;
                self.expect(")")?;
                Ok(Compared::Size(path))
            }
            _ => Ok(Compared::Path(self.path()?)),
        }
    }

    fn value(&mut self) -> Result<Value> {
        let Some(Token::Value(name)) = self.tokens.get(self.at) else { return Err(self.unexpected()) };
        let Some(value) = self.names.values.get(name) else {
            return Err(self.wrong(&format!(
                "An expression attribute value used in expression is not defined; attribute value: {name}"
            )));
        };
        let value = value.clone();
        self.names.used.insert(name.clone());
        self.at += 1;
        Ok(value)
    }

    fn path(&mut self) -> Result<Path> {
        let attribute = self.name()?;
        let mut steps = Vec::new();
        loop {
            if self.take(".") {
                steps.push(Step::Field(self.name()?));
            } else if self.take("[") {
                let Some(Token::Index(index)) = self.tokens.get(self.at) else { return Err(self.unexpected()) };
                steps.push(Step::Index(*index));
                self.at += 1;
                self.expect("]")?;
            } else {
                return Ok(Path { attribute, steps });
            }
        }
    }

    fn name(&mut self) -> Result<String> {
        let name = match self.tokens.get(self.at) {
            Some(Token::Name(name)) => {
                let Some(meant) = self.names.names.get(name) else {
                    return Err(self.wrong(&format!(
                        "An expression attribute name used in the document path is not defined; attribute name: {name}"
                    )));
                };
                self.names.used.insert(name.clone());
                meant.clone()
            }
            Some(Token::Word(word)) if is_reserved(word) => {
                return Err(self.wrong(&format!("Attribute name is a reserved keyword; reserved keyword: {word}")));
            }
            Some(Token::Word(word)) => word.clone(),
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(name)
    }

    fn update(&mut self) -> Result<Update> {
        let mut update = Update::default();
        let mut seen = BTreeSet::new();
        while let Some(Token::Word(word)) = self.tokens.get(self.at) {
            let clause = word.to_ascii_uppercase();
            if !["SET", "REMOVE", "ADD", "DELETE"].contains(&clause.as_str()) {
                return Err(self.unexpected());
            }
            self.at += 1;
            if !seen.insert(clause.clone()) {
                return Err(
                    self.wrong(&format!("The \"{clause}\" section can only be used once in an update expression;"))
                );
            }
            loop {
                let path = self.path()?;
                match clause.as_str() {
                    "SET" => {
                        self.expect("=")?;
                        self.operator()?;
                        let term = self.sum()?;
                        update.sets.push((path, term));
                    }
                    "REMOVE" => update.removes.push(path),
                    "ADD" => update.adds.push((path, self.value()?)),
                    _ => update.deletes.push((path, self.value()?)),
                }
                if !self.take(",") {
                    break;
                }
            }
        }
        self.end()?;
        Ok(update)
    }

    fn sum(&mut self) -> Result<Term> {
        let left = self.term()?;
        let plus = self.take("+");
        if plus || self.take("-") {
            self.operator()?;
            let (left, right) = (Box::new(left), Box::new(self.term()?));
            return Ok(if plus { Term::Plus(left, right) } else { Term::Minus(left, right) });
        }
        Ok(left)
    }

    fn term(&mut self) -> Result<Term> {
        if self.take("(") {
            let inner = self.sum()?;
            self.expect(")")?;
            return Ok(inner);
        }
        match self.tokens.get(self.at) {
            Some(Token::Value(_)) => Ok(Term::Value(self.value()?)),
            Some(Token::Word(word)) if self.is_sign(1, "(") => {
                let name = word.clone();
                self.operator()?;
                self.at += 2;
                let term = match name.as_str() {
                    "if_not_exists" => {
                        let path = self.path()?;
                        self.expect(",")?;
                        Term::IfNotExists(path, Box::new(self.term()?))
                    }
                    "list_append" => {
                        let first = Box::new(self.term()?);
                        self.expect(",")?;
                        Term::ListAppend(first, Box::new(self.term()?))
                    }
                    _ => return Err(self.wrong(&format!("Invalid function name; function: {name}"))),
                };
                self.expect(")")?;
                Ok(term)
            }
            _ => Ok(Term::Path(self.path()?)),
        }
    }
}

const KINDS: &[&str] = &["S", "SS", "N", "NS", "B", "BS", "BOOL", "NULL", "L", "M"];
