//! SPDX expressions: what must be kept when several works are given away as one. An expression is held as terms that all
//! count, each with the licences of which one is enough.

use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fmt;

/// Which licences count together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expression {
    terms: BTreeSet<BTreeSet<String>>,
}

impl Expression {
    /// Reads one; a slash, which crates used to write, is `OR`.
    ///
    /// # Errors
    /// When it is no such expression.
    pub fn parse(text: &str) -> Result<Self> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
        let parsed = either(&mut words).filter(|_| words.is_empty());
        ensure!(parsed.is_some(), "`{text}` is no SPDX expression");
        Ok(parsed.unwrap_or_default())
    }

    /// Both count. A term goes when another one is enough for it: `MIT AND (Apache-2.0 OR MIT)` is `MIT`.
    pub fn and(mut self, other: Self) -> Self {
        self.terms.extend(other.terms);
        let all = self.terms.clone();
        self.terms.retain(|term| !all.iter().any(|other| other != term && other.is_subset(term)));
        self
    }

    /// Either is enough.
    fn or(self, other: &Self) -> Self {
        let pairs = self.terms.iter().flat_map(|one| other.terms.iter().map(move |two| one | two));
        Self { terms: pairs.collect() }.and(Self::default())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.terms.iter().map(|term| {
            let choices = term.iter().map(String::as_str).collect::<Vec<_>>().join(" OR ");
            if term.len() > 1 && self.terms.len() > 1 { format!("({choices})") } else { choices }
        });
        out.write_str(&terms.collect::<Vec<_>>().join(" AND "))
    }
}

// The words are held from the last to the first.

fn either(words: &mut Vec<&str>) -> Option<Expression> {
    let mut found = both(words)?;
    while words.pop_if(|word| *word == "OR").is_some() {
        found = found.or(&both(words)?);
    }
    Some(found)
}

fn both(words: &mut Vec<&str>) -> Option<Expression> {
    let mut found = single(words)?;
    while words.pop_if(|word| *word == "AND").is_some() {
        found = found.and(single(words)?);
    }
    Some(found)
}

fn single(words: &mut Vec<&str>) -> Option<Expression> {
    let first = words.pop()?;
    if first == "(" {
        let inner = either(words)?;
        return words.pop_if(|word| *word == ")").map(|_| inner);
    }
    let is_name = |word: &str| !["AND", "OR", "WITH", ")"].contains(&word);
    let mut licence = Some(first).filter(|word| is_name(word))?.to_owned();
    if words.pop_if(|word| *word == "WITH").is_some() {
        licence = format!("{licence} WITH {}", words.pop().filter(|word| is_name(word))?);
    }
    Some(Expression { terms: BTreeSet::from([BTreeSet::from([licence])]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_read_and_shortened() {
        for (text, expected) in [
            ("MIT", "MIT"),
            ("MIT/Apache-2.0", "Apache-2.0 OR MIT"),
            ("MIT AND (Apache-2.0 OR MIT)", "MIT"),
            ("(Apache-2.0 OR MIT) AND BSD-3-Clause", "(Apache-2.0 OR MIT) AND BSD-3-Clause"),
            ("Apache-2.0 OR MIT AND ISC", "(Apache-2.0 OR ISC) AND (Apache-2.0 OR MIT)"),
            ("Apache-2.0 WITH LLVM-exception OR MIT", "Apache-2.0 WITH LLVM-exception OR MIT"),
        ] {
            assert_eq!(Expression::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT Apache-2.0", "MIT WITH", "WITH x"] {
            assert!(Expression::parse(text).is_err(), "{text}");
        }
    }
}
