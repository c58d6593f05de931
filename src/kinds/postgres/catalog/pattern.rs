//! Patterns of `tables:` in the configuration: `schema.table`, where each part may hold `*` and `?`.
//!
//! Identifiers are taken as they are in the catalog, without folding to lower case; quotes are allowed around either
//! part, for names that hold a dot.

use std::str::FromStr;

use crate::error::{Error, Result};

/// A pattern of table names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    schema: String,
    table: String,
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let broken =
            || Error::config(format!("read the table pattern {text:?}: write schema.table, for example public.*"));
        let (schema, rest) = part(text).ok_or_else(broken)?;
        let (table, rest) = rest.strip_prefix('.').and_then(part).ok_or_else(broken)?;
        if rest.is_empty() { Ok(Self { schema, table }) } else { Err(broken()) }
    }
}

/// Takes one identifier, quoted or not.
fn part(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return (!name.is_empty()).then_some((name, after)),
            }
        }
    }
    let end = text.find('.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    (!name.is_empty() && !name.contains('"')).then(|| (name.to_owned(), rest))
}

impl Pattern {
    /// Whether a table of this name is meant. `*` matches any characters, `?` one.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        glob(&self.schema, schema) && glob(&self.table, table)
    }

    /// Whether it names one table, which then has to exist.
    pub fn is_exact(&self) -> bool {
        !self.schema.contains(['*', '?']) && !self.table.contains(['*', '?'])
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.table)
    }
}

/// Whether the whole text matches. A mismatch goes back to the last star only, so the work is bounded by the product of
/// both lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (p, t) = (after + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_characters_within_its_part() {
        for (pattern, schema, table, expected) in [
            ("public.*", "public", "a.b", true),
            ("public.*", "public2", "a", false),
            ("*.*", "x", "y", true),
            ("p*c.t_*_x", "public", "t_1_x", true),
            ("p*c.t_*_x", "public", "t_x", false),
            ("public.a*b*b", "public", "abb", true),
            ("public.a*b*b", "public", "ab", false),
            ("public.a?b*", "public", "a.bc", true),
            ("public.a?b", "public", "ab", false),
            ("public.?", "public", "ü", true),
            ("public.*", "public", "", true),
            ("public.Users", "public", "users", false),
            ("\"we.ird\".\"a\"\"b\"", "we.ird", "a\"b", true),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(schema, table), expected, "{pattern} {schema}.{table}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_says_how_one_looks() {
        for text in ["", "accounts", "a.b.c", ".b", "a.", "\"a.b", "a\"b.c"] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert!(error.contains("public.*"), "{text:?}: {error}");
        }
    }
}
