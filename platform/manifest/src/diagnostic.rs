//! What is wrong with a manifest, and the picture that shows it: file, line, column, the line itself and a caret.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Most problems that are told about one file; the rest is only counted.
pub(crate) const MAX_DIAGNOSTICS: usize = 20;

/// Widest piece of a source line that is shown, in characters.
const MAX_WIDTH: usize = 100;

/// One thing that is wrong, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub at: Place,
    /// What is said beside the caret, such as `did you mean ...`; may be empty.
    pub label: String,
    /// What is expected there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// A second place that the problem is about, with what is said there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub also: Option<(Place, String)>,
}

/// A place in the file, with the line it is on so that it can be shown without the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters are meant; at least 1.
    pub width: usize,
    /// The piece of the line that is shown.
    text: String,
    /// Characters of `text` before the caret.
    indent: usize,
}

impl Place {
    /// The place of the bytes `span` of `source`; a span over several lines is cut at the end of its first line.
    pub(crate) fn new(source: &str, span: Range<usize>) -> Self {
        let start = floor_char_boundary(source, span.start);
        let end = floor_char_boundary(source, span.end.max(start));
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[start..].find('\n').map_or(source.len(), |at| start + at);
        let line_text = source[line_start..line_end].trim_end_matches('\r');
        let before = source[line_start..start].chars().count();
        let width = source[start..end.min(line_end).max(start)].trim_end().chars().count().max(1);
        // A long line is shown through a window that begins a little before the caret.
        let skip = if before + width <= MAX_WIDTH { 0 } else { before.saturating_sub(MAX_WIDTH / 4) };
        let shown: String = line_text.chars().skip(skip).take(MAX_WIDTH).map(printable).collect();
        let (cut_left, cut_right) = (skip > 0, line_text.chars().count() > skip + MAX_WIDTH);
        let indent = before - skip + usize::from(cut_left);
        let text = format!("{}{shown}{}", if cut_left { "…" } else { "" }, if cut_right { "…" } else { "" });
        let line = source[..start].matches('\n').count() + 1;
        Self { line, column: before + 1, width: width.min(MAX_WIDTH), text, indent }
    }
}

/// Control characters would let a file write to the terminal; a tab counts as one blank so that carets stay true.
pub(crate) fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// A manifest that was refused: everything that is wrong with it, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestError {
    /// The file's name, as the user gave it.
    pub file: String,
    /// What is wrong: 1 to 20 things.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there are.
    #[serde(default)]
    pub more: usize,
}

impl std::error::Error for ManifestError {}

/// Without colour; [`ManifestError::render`] has the choice.
impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

/// How the parts of a picture are coloured; every field is empty without colour.
#[derive(Default)]
struct Paint {
    error: &'static str,
    frame: &'static str,
    bold: &'static str,
    reset: &'static str,
}

impl ManifestError {
    /// The picture for people, ending with a line break: one block per problem, a blank line between two.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let paint = if colour {
            Paint { error: "\x1b[1;31m", frame: "\x1b[34m", bold: "\x1b[1m", reset: "\x1b[0m" }
        } else {
            Paint::default()
        };
        let blocks: Vec<String> = self.diagnostics.iter().map(|d| self.block(d, &paint)).collect();
        let mut text = blocks.join("\n");
        if self.more > 0 {
            text.push_str(&format!("\n{}error{}: {} more like these\n", paint.error, paint.reset, self.more));
        }
        text
    }

    fn block(&self, diagnostic: &Diagnostic, paint: &Paint) -> String {
        let Paint { error, frame, bold, reset } = paint;
        let at = &diagnostic.at;
        let last_line = diagnostic.also.as_ref().map_or(at.line, |(place, _)| place.line.max(at.line));
        let gutter = last_line.to_string().len();
        let mut out = format!("{error}error{reset}: {bold}{}{reset}\n", diagnostic.message);
        out.push_str(&format!("{:gutter$}{frame}-->{reset} {}:{}:{}\n", "", self.file, at.line, at.column));
        let mut show = |place: &Place, label: &str, tint: &str| {
            let caret = "^".repeat(place.width.min(place.text.chars().count().saturating_sub(place.indent).max(1)));
            let pointer = format!("{:1$}{tint}{caret} {label}", "", place.indent);
            out.push_str(&format!("{:gutter$} {frame}|{reset}\n", ""));
            let line = format!("{frame}{:>gutter$} |{reset} {}", place.line, place.text);
            out.push_str(line.trim_end());
            out.push_str(&format!("\n{:gutter$} {frame}|{reset} {}{reset}\n", "", pointer.trim_end()));
        };
        show(at, &diagnostic.label, error);
        if let Some((place, label)) = &diagnostic.also {
            show(place, label, frame);
        }
        if let Some(expected) = &diagnostic.expected {
            out.push_str(&format!("{:gutter$} {frame}={reset} expected {expected}\n", ""));
        }
        out
    }
}

/// Collects problems while a file is read.
pub(crate) struct Sink<'a> {
    source: &'a str,
    found: Vec<(usize, Diagnostic)>,
    more: usize,
}

impl<'a> Sink<'a> {
    pub(crate) const fn new(source: &'a str) -> Self {
        Self { source, found: Vec::new(), more: 0 }
    }

    /// Notes a problem at `span`.
    pub(crate) fn report(&mut self, span: &Range<usize>, message: impl Into<String>) -> Report<'_, 'a> {
        // A place costs a walk through the file: what is only counted gets none.
        if self.found.len() == MAX_DIAGNOSTICS {
            self.more += 1;
            return Report { sink: self, entry: None };
        }
        let at = Place::new(self.source, span.clone());
        let start = span.start;
        // Errors of all kinds of values speak here, and quote them.
        let message = message.into().chars().map(printable).collect();
        let diagnostic = Diagnostic { message, at, label: String::new(), expected: None, also: None };
        Report { sink: self, entry: Some((start, diagnostic)) }
    }

    /// Notes a problem at `span` and shows nothing of the line but `span`: what stands beside it may be a secret.
    pub(crate) fn hidden(&mut self, span: &Range<usize>, message: impl Into<String>) -> Report<'_, 'a> {
        self.report(span, message).with(|d| {
            d.at.text = d.at.text.chars().skip(d.at.indent).take(d.at.width).collect();
            d.at.indent = 0;
        })
    }

    pub(crate) fn finish(mut self, file: &str) -> Option<ManifestError> {
        self.found.sort_by_key(|(start, _)| *start);
        let diagnostics: Vec<_> = self.found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        let file = file.chars().map(printable).collect();
        (!diagnostics.is_empty()).then_some(ManifestError { file, diagnostics, more: self.more })
    }
}

/// A problem under construction; it is noted when this goes out of scope.
pub(crate) struct Report<'s, 'a> {
    sink: &'s mut Sink<'a>,
    entry: Option<(usize, Diagnostic)>,
}

impl Report<'_, '_> {
    fn with(mut self, change: impl FnOnce(&mut Diagnostic)) -> Self {
        if let Some((_, diagnostic)) = &mut self.entry {
            change(diagnostic);
        }
        self
    }

    pub(crate) fn label(self, label: impl Into<String>) -> Self {
        self.with(|d| d.label = label.into())
    }

    pub(crate) fn expected(self, expected: impl Into<String>) -> Self {
        self.with(|d| d.expected = Some(expected.into()))
    }

    pub(crate) fn also(self, span: &Range<usize>, label: impl Into<String>) -> Self {
        let source = self.sink.source;
        self.with(|d| d.also = Some((Place::new(source, span.clone()), label.into())))
    }
}

impl Drop for Report<'_, '_> {
    fn drop(&mut self) {
        self.sink.found.extend(self.entry.take());
    }
}

/// The candidate that `word` was probably meant to be: at most a third of its letters differ.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let word: Vec<char> = word.chars().take(64).collect();
    let scored = candidates.into_iter().map(|c| (distance(&word, &c.chars().collect::<Vec<_>>()), c));
    let (score, best) = scored.min_by_key(|(score, _)| *score)?;
    (score <= (best.chars().count() / 3).max(1)).then_some(best)
}

/// Edits (insert, delete, replace, swap of neighbours) that lead from `a` to `b`.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
