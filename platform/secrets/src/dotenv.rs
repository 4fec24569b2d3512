//! Files that secrets are imported from: `NAME=value` lines, or one JSON object of texts.
//!
//! Lines as in most `.env` files: blank lines and `#` comments are skipped, `export ` is allowed, a value is bare (up to
//! the end of the line, or to ` #`), in single quotes (as it stands) or in double quotes (`\n \r \t \\ \" \$`). Quoted values may
//! span lines. Nothing is ever expanded.

use std::collections::BTreeMap;

use holm_manifest::{SecretName, SecretNameError};
use zeroize::Zeroize;

use crate::value::{SecretValue, Secrets};

/// Largest file in bytes.
pub const MAX_IMPORT: usize = 1 << 20;

/// Why a file cannot be imported. Never shows a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Not text.
    #[error("the file is not UTF-8 text")]
    NotText,
    /// Too large.
    #[error("the file is larger than {MAX_IMPORT} bytes")]
    TooLarge,
    /// A JSON file that is no object of texts.
    #[error("line {0}: not a JSON object whose values are texts")]
    Json(usize),
    /// A line without `=`.
    #[error("line {0}: `NAME=value` is expected")]
    NoEquals(usize),
    /// A name that cannot be one.
    #[error("line {line}: {source}")]
    Name {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: SecretNameError,
    },
    /// A quote that is not closed.
    #[error("line {0}: the quote is not closed")]
    OpenQuote(usize),
    /// Something after a closing quote.
    #[error("line {0}: something follows the closing quote")]
    AfterQuote(usize),
    /// An escape that is not known.
    #[error("line {0}: only \\n, \\r, \\t, \\\\, \\\" and \\$ are known after a backslash")]
    Escape(usize),
    /// A name given twice.
    #[error("line {line}: `{name}` is given twice")]
    Twice {
        /// The line, from 1.
        line: usize,
        /// The name.
        name: SecretName,
    },
}

/// Reads a file of secrets.
///
/// # Errors
/// [`ImportError`] with the line.
pub fn parse_import(bytes: &[u8]) -> Result<Secrets, ImportError> {
    if bytes.len() > MAX_IMPORT {
        return Err(ImportError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ImportError::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') { parse_json(text) } else { Lines { rest: text, line: 1 }.parse() }
}

fn parse_json(text: &str) -> Result<Secrets, ImportError> {
    let values: BTreeMap<String, String> =
        serde_json::from_str(text).map_err(|error| ImportError::Json(error.line()))?;
    let mut secrets = BTreeMap::new();
    for (name, value) in values {
        let name = SecretName::new(name).map_err(|source| ImportError::Name { line: 1, source })?;
        secrets.insert(name, SecretValue::new(value));
    }
    Ok(Secrets(secrets))
}

struct Lines<'t> {
    rest: &'t str,
    /// The line that `rest` begins in.
    line: usize,
}

impl Lines<'_> {
    fn parse(mut self) -> Result<Secrets, ImportError> {
        let mut secrets = BTreeMap::new();
        while !self.rest.is_empty() {
            let start = self.rest.trim_start_matches([' ', '\t']);
            let end = start.find('\n').unwrap_or(start.len());
            let shown = start[..end].trim_end();
            if shown.is_empty() || shown.starts_with('#') {
                self.skip_to(start, end);
                continue;
            }
            let line = self.line;
            let equals = shown.find('=').ok_or(ImportError::NoEquals(line))?;
            let name = shown[..equals].trim();
            let name = name.strip_prefix("export ").map_or(name, str::trim);
            let name = SecretName::new(name).map_err(|source| ImportError::Name { line, source })?;
            self.rest = start[equals + 1..].trim_start_matches([' ', '\t']);
            let value = self.value()?;
            if secrets.insert(name.clone(), SecretValue::new(value)).is_some() {
                return Err(ImportError::Twice { line, name });
            }
        }
        Ok(Secrets(secrets))
    }

    /// Goes on behind the line that ends at `end` of `text`.
    fn skip_to(&mut self, text: &str, end: usize) {
        let skipped = self.rest.len() - text.len() + end;
        self.rest = self.rest.get(skipped + 1..).unwrap_or("");
        self.line += 1;
    }

    fn value(&mut self) -> Result<String, ImportError> {
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote),
            _ => {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                let bare = &self.rest[..end];
                let comment = if bare.starts_with('#') { Some(0) } else { bare.find(" #").or(bare.find("\t#")) };
                let value = bare[..comment.unwrap_or(bare.len())].trim_end().to_owned();
                let rest = self.rest;
                self.skip_to(rest, end);
                Ok(value)
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ImportError> {
        let opened = self.line;
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        let closed = loop {
            let Some((at, c)) = chars.next() else {
                value.zeroize();
                return Err(ImportError::OpenQuote(opened));
            };
            match c {
                c if c == quote => break at,
                '\\' if quote == '"' => match chars.next().map(|(_, c)| c) {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(c @ ('\\' | '"' | '$')) => value.push(c),
                    _ => {
                        value.zeroize();
                        return Err(ImportError::Escape(self.line));
                    }
                },
                c => {
                    self.line += usize::from(c == '\n');
                    value.push(c);
                }
            }
        };
        let after = &self.rest[closed + 1..];
        let end = after.find('\n').unwrap_or(after.len());
        let shown = after[..end].trim();
        if !shown.is_empty() && !shown.starts_with('#') {
            value.zeroize();
            return Err(ImportError::AfterQuote(self.line));
        }
        self.skip_to(after, end);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<Vec<(String, String)>, ImportError> {
        let secrets = parse_import(text.as_bytes())?;
        let pair = |(name, value): (&SecretName, &SecretValue)| {
            (name.to_string(), String::from_utf8(value.expose().to_vec()).unwrap())
        };
        Ok(secrets.0.iter().map(pair).collect())
    }

    #[test]
    fn lines_are_read_as_most_env_files_mean_them() {
        let text = "\u{feff}# a comment\n\nA=1\r\n export B = two words # said\nC='it''s'\n";
        assert_eq!(parsed(text), Err(ImportError::AfterQuote(5)));
        let text =
            "A=1\r\n export B = two words # said\nC='a $B #c'\nD=\"x\\n\\\"y\\\"\" # d\nE=\nF='1\n2'\nG=a#b\nH=last";
        let wanted = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a $B #c"),
            ("D", "x\n\"y\""),
            ("E", ""),
            ("F", "1\n2"),
            ("G", "a#b"),
            ("H", "last"),
        ];
        assert_eq!(parsed(text).unwrap(), wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(parsed("{\"A\": \"1\\n2\"}").unwrap(), [("A".to_owned(), "1\n2".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_a_value() {
        for (text, wanted) in [
            ("A=1\nhunter2\n", ImportError::NoEquals(2)),
            ("A='1\n2'\nB=\"hunter2\n", ImportError::OpenQuote(3)),
            ("A=\"hunter2\\x\"", ImportError::Escape(1)),
            ("{\"A\": 5}", ImportError::Json(1)),
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error, wanted);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(matches!(parsed("A=1\nA=2"), Err(ImportError::Twice { line: 2, .. })));
        assert!(matches!(parsed("a b=hunter2"), Err(ImportError::Name { line: 1, .. })));
        assert_eq!(parse_import(&[0xff]), Err(ImportError::NotText));
        assert_eq!(parse_import(&vec![b' '; MAX_IMPORT + 1]), Err(ImportError::TooLarge));
    }

    proptest! {
        #[test]
        fn any_bytes_are_secrets_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse_import(&bytes);
        }

        #[test]
        fn any_text_is_secrets_or_an_error(text in "[A-C='\"\\\\#\n\r \t{}:a-c$]{0,60}") {
            let _ = parse_import(text.as_bytes());
        }

        #[test]
        fn a_quoted_value_comes_back_whole(value in "[^']{0,40}", other in "[^\u{0}]{0,40}") {
            let escaped = other.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("A='{value}'\nB=\"{escaped}\"\nC=1\n");
            let wanted = [("A", &*value), ("B", &*other), ("C", "1")];
            prop_assert_eq!(parsed(&text).unwrap(), wanted.map(|(n, v)| (n.to_owned(), v.to_owned())));
        }
    }
}
