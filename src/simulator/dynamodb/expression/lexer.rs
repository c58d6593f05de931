//! An expression's text as tokens.

use super::super::fail::{Failure, Result};

/// LIMIT: an expression's length, as documented: 4 KB.
const LONGEST: usize = 4096;

/// A piece of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name or a keyword.
    Word(String),
    /// `#name`, with its sign.
    Name(String),
    /// `:value`, with its sign.
    Value(String),
    /// The number in `[3]`.
    Index(usize),
    /// A comparator, a parenthesis, …
    Sign(&'static str),
}

impl Token {
    /// As it stood in the text.
    pub fn text(&self) -> String {
        match self {
            Self::Word(text) | Self::Name(text) | Self::Value(text) => text.clone(),
            Self::Index(index) => index.to_string(),
            Self::Sign(sign) => (*sign).to_owned(),
        }
    }
}

/// Two-character signs stand before those that they begin with.
const SIGNS: &[&str] = &["<>", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ",", ".", "+", "-"];

/// Takes a text apart.
///
/// # Errors
/// A character that begins no token, or a text that is too long or empty; `what` names the parameter.
pub fn tokens(text: &str, what: &str) -> Result<Vec<Token>> {
    if text.is_empty() {
        return Err(Failure::invalid(format!("Invalid {what}: The expression can not be empty;")));
    }
    if text.len() > LONGEST {
        return Err(Failure::invalid(format!(
            "Invalid {what}: Expression size has exceeded the maximum allowed size; expression size: {}",
            text.len()
        )));
    }
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if first.is_ascii_alphabetic() || first == '_' {
            let length = word(rest);
            (Token::Word(rest[..length].to_owned()), length)
        } else if matches!(first, '#' | ':') && word(&rest[1..]) > 0 {
            let length = 1 + word(&rest[1..]);
            let text = rest[..length].to_owned();
            (if first == '#' { Token::Name(text) } else { Token::Value(text) }, length)
        } else if first.is_ascii_digit() {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let index = rest[..length].parse().map_err(|_| unknown(what, rest))?;
            (Token::Index(index), length)
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).ok_or_else(|| unknown(what, rest))?;
            (Token::Sign(sign), sign.len())
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

fn word(text: &str) -> usize {
    text.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count()
}

fn unknown(what: &str, rest: &str) -> Failure {
    let token: String = rest.chars().take(1).collect();
    let near: String = rest.chars().take(10).collect();
    Failure::invalid(format!("Invalid {what}: Syntax error; token: \"{token}\", near: \"{near}\""))
}
