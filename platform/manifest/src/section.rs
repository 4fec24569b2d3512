//! A table of the file with the fields it may have: unknown ones are refused, known ones are read with their place.

use std::ops::{Range, RangeInclusive};

use toml_edit::{Item, TableLike, Value};

use crate::diagnostic::{Sink, nearest, printable};

/// A table of the file.
pub(crate) struct Section<'d> {
    table: &'d dyn TableLike,
    /// The place of its head, for what is missing from it.
    pub(crate) span: Range<usize>,
    /// How messages call it: `[process.web]`, or `the manifest` for the top.
    pub(crate) name: String,
}

/// A field that is there.
pub(crate) struct Field<'d> {
    item: &'d Item,
    /// The place of its name.
    pub(crate) key: Range<usize>,
    /// The place of its value.
    pub(crate) span: Range<usize>,
    /// How messages call it: `` `cpu` in [process.web] ``.
    pub(crate) name: String,
}

impl<'d> Section<'d> {
    /// A table that may have only the fields `known`.
    pub(crate) fn strict(
        table: &'d dyn TableLike,
        span: Range<usize>,
        name: String,
        known: &[&str],
        sink: &mut Sink<'_>,
    ) -> Self {
        let section = Self { table, span, name };
        for field in section.fields() {
            let (word, at) = field;
            if known.contains(&word) {
                continue;
            }
            let label = nearest(word, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            sink.report(&at.key, format!("unknown field `{}` in {}", printed(word), section.name))
                .label(label.unwrap_or_default())
                .expected(format!("one of: {}", known.join(", ")));
        }
        section
    }

    /// A table whose fields have names of the user's choice.
    pub(crate) const fn open(table: &'d dyn TableLike, span: Range<usize>, name: String) -> Self {
        Self { table, span, name }
    }

    /// Every field, in the order of the file.
    pub(crate) fn fields(&self) -> Vec<(&'d str, Field<'d>)> {
        self.table.iter().filter_map(|(word, _)| Some((word, self.get(word)?))).collect()
    }

    /// The field called `word`, if it is there.
    pub(crate) fn get(&self, word: &str) -> Option<Field<'d>> {
        let (key, item) = self.table.get_key_value(word).filter(|(_, item)| !item.is_none())?;
        let key = key.span().or_else(|| item.span()).unwrap_or_else(|| self.span.clone());
        let span = item.span().unwrap_or_else(|| key.clone());
        Some(Field { item, key, span, name: format!("`{}` in {}", printed(word), self.name) })
    }
}

/// A name from the file, short enough for a message and without control characters.
fn printed(word: &str) -> String {
    word.chars().take(60).map(printable).collect()
}

impl<'d> Field<'d> {
    /// Says that the value is of the wrong kind.
    pub(crate) fn wrong_kind(&self, expected: &str, sink: &mut Sink<'_>) {
        let found = match self.item {
            Item::Value(value) => kind(value),
            Item::Table(_) => "a table",
            Item::ArrayOfTables(_) => "a list of tables",
            Item::None => "nothing",
        };
        sink.report(&self.span, format!("{} is {found}", self.name)).expected(expected);
    }

    /// Says that the value is of the right kind and wrong all the same.
    pub(crate) fn wrong(&self, why: impl std::fmt::Display, expected: &str, sink: &mut Sink<'_>) {
        sink.report(&self.span, format!("{}: {why}", self.name)).expected(expected);
    }

    /// A text without NUL characters, of at most `max` bytes.
    pub(crate) fn text(&self, expected: &str, max: usize, sink: &mut Sink<'_>) -> Option<&'d str> {
        let Some(text) = self.item.as_str() else {
            self.wrong_kind(expected, sink);
            return None;
        };
        self.check_text(text, max, &self.span, sink)
    }

    fn check_text(&self, text: &'d str, max: usize, span: &Range<usize>, sink: &mut Sink<'_>) -> Option<&'d str> {
        if text.contains('\0') {
            sink.report(span, format!("{} contains a NUL character", self.name));
            return None;
        }
        if text.len() > max {
            sink.report(span, format!("{} has {} bytes", self.name, text.len()))
                .expected(format!("at most {max} bytes"));
            return None;
        }
        Some(text)
    }

    /// Whether a text stands there.
    pub(crate) const fn is_text(&self) -> bool {
        matches!(self.item, Item::Value(Value::String(_)))
    }

    /// `true` or `false`.
    pub(crate) fn truth(&self, sink: &mut Sink<'_>) -> Option<bool> {
        let truth = self.item.as_bool();
        if truth.is_none() {
            self.wrong_kind("true or false", sink);
        }
        truth
    }

    /// A whole number in `range`.
    pub(crate) fn number(&self, range: RangeInclusive<u32>, sink: &mut Sink<'_>) -> Option<u32> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let Some(number) = self.item.as_integer() else {
            self.wrong_kind(&expected, sink);
            return None;
        };
        let number_in_range = u32::try_from(number).ok().filter(|n| range.contains(n));
        if number_in_range.is_none() {
            self.wrong(format_args!("{number} is out of range"), &expected, sink);
        }
        number_in_range
    }

    /// A port: 1 to 65,535.
    pub(crate) fn port(&self, sink: &mut Sink<'_>) -> Option<u16> {
        self.number(1..=u32::from(u16::MAX), sink).and_then(|port| u16::try_from(port).ok())
    }

    /// A number with or without a fraction.
    pub(crate) fn decimal(&self, expected: &str, sink: &mut Sink<'_>) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a number this large is out of every range anyway")]
        let number = self.item.as_float().or_else(|| self.item.as_integer().map(|n| n as f64));
        if number.is_none() {
            self.wrong_kind(expected, sink);
        }
        number
    }

    /// True or false.
    pub(crate) fn switch(&self, sink: &mut Sink<'_>) -> Option<bool> {
        let value = self.item.as_bool();
        if value.is_none() {
            self.wrong_kind("true or false", sink);
        }
        value
    }

    /// A list of texts: a program and its arguments.
    pub(crate) fn command(&self, sink: &mut Sink<'_>) -> Option<Vec<String>> {
        const EXPECTED: &str =
            "a list of texts: the program and its arguments, such as [\"serve\", \"--port\", \"80\"]";
        const MAX_WORDS: usize = 256;
        const MAX_WORD: usize = 8 << 10;
        let Some(array) = self.item.as_array() else {
            self.wrong_kind(EXPECTED, sink);
            return None;
        };
        if array.len() > MAX_WORDS {
            self.wrong(format_args!("{} words are too many", array.len()), &format!("at most {MAX_WORDS}"), sink);
            return None;
        }
        let mut words = Vec::with_capacity(array.len());
        for value in array {
            let span = value.span().unwrap_or_else(|| self.span.clone());
            match value.as_str() {
                Some(word) => words.push(self.check_text(word, MAX_WORD, &span, sink)?.to_owned()),
                None => {
                    sink.report(&span, format!("{} contains {}", self.name, kind(value))).expected(EXPECTED);
                    return None;
                }
            }
        }
        if words.first().is_none_or(String::is_empty) {
            self.wrong("the program is missing", EXPECTED, sink);
            return None;
        }
        Some(words)
    }

    /// A table, written `[name]` or `{ … }`.
    pub(crate) fn table(&self, expected: &str, sink: &mut Sink<'_>) -> Option<&'d dyn TableLike> {
        let table = self.item.as_table_like();
        if table.is_none() {
            self.wrong_kind(expected, sink);
        }
        table
    }

    /// A list of tables, written `[[name]]` or `[{ … }, …]`, each with its place.
    pub(crate) fn tables(&self, expected: &str, sink: &mut Sink<'_>) -> Option<Vec<(&'d dyn TableLike, Range<usize>)>> {
        let here = || self.span.clone();
        if let Some(tables) = self.item.as_array_of_tables() {
            return Some(tables.iter().map(|t| (t as &dyn TableLike, t.span().unwrap_or_else(here))).collect());
        }
        let inline = self.item.as_array().and_then(|array| {
            let one = |v: &'d Value| Some((v.as_inline_table()? as &dyn TableLike, v.span().unwrap_or_else(here)));
            array.iter().map(one).collect::<Option<Vec<_>>>()
        });
        if inline.is_none() {
            self.wrong_kind(expected, sink);
        }
        inline
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date or time",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "a table",
    }
}
