//! Where everything that `holm` says goes: data to standard output, talk to standard error.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use holm_api::Problem;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::ColourChoice;
use crate::exit::{Failure, Said};

/// The two streams and how to write to them.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
    /// The time that ages are counted from.
    pub(crate) now: Timestamp,
}

/// A document with its schema in front.
#[derive(Serialize)]
struct Document<'a, T> {
    schema: String,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool, colour: ColourChoice) -> Self {
        let allowed = |terminal: bool| match colour {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        Self {
            json,
            quiet,
            colour_out: allowed(io::stdout().is_terminal()),
            colour_err: allowed(io::stderr().is_terminal()),
            now: Timestamp::now(),
        }
    }

    /// Whether documents are wanted instead of text.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// Writes text as it is.
    pub(crate) fn text(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Writes bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8], error_stream: bool) -> Result<(), Failure> {
        if error_stream {
            return Ok(io::stderr().lock().write_all(bytes)?);
        }
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Writes the document of `verb`, or the text that `render` makes of it.
    pub(crate) fn show<T: Serialize>(
        &self,
        verb: &str,
        body: &T,
        render: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        self.written(verb, body, render, serde_json::to_string_pretty)
    }

    /// Writes one item of a stream: a document on one line, or text.
    pub(crate) fn item<T: Serialize>(
        &self,
        verb: &str,
        body: &T,
        render: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        self.written(verb, body, render, serde_json::to_string)
    }

    fn written<'a, T: Serialize>(
        &self,
        verb: &str,
        body: &'a T,
        render: impl FnOnce(&T) -> String,
        as_json: impl FnOnce(&Document<'a, T>) -> serde_json::Result<String>,
    ) -> Result<(), Failure> {
        if !self.json {
            return self.text(&render(body));
        }
        let text = as_json(&Document { schema: format!("holm.{verb}/1"), body }).map_err(io::Error::other)?;
        self.text(&(text + "\n"))
    }

    /// Says something on standard error that is no data; `-q` leaves it out.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            // Nothing is lost when nobody listens to talk.
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Says why `holm` ends.
    pub(crate) fn fail(&self, failure: &Failure) {
        let problem = match &failure.said {
            Said::Nothing => return,
            Said::Problem(problem) => problem.clone(),
            Said::Manifest(error) => Problem::bad_request(error.to_string()),
        };
        let text = match &failure.said {
            Said::Manifest(error) => error.render(self.colour_err),
            _ => render_problem(&problem, self.colour_err),
        };
        let _ = io::stderr().lock().write_all(text.as_bytes());
        if self.json {
            let _ = self.show("error", &problem, |_| String::new());
        }
    }

    /// `text` in bold where colour is wanted on standard output.
    pub(crate) fn bold(&self, text: &str) -> String {
        if self.colour_out { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A line that shows what goes on, on a terminal only.
    pub(crate) fn progress(&self) -> ProgressBar {
        let hidden = self.quiet || self.json || !io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if hidden {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            return bar;
        }
        let template = "{spinner} {msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// A problem as people read it: what failed and why, then what to do.
fn render_problem(problem: &Problem, colour: bool) -> String {
    let (red, bold, reset) = if colour { ("\x1b[1;31m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
    let mut text = format!("{red}error{reset}: {bold}{}{reset}\n", problem.message);
    if let Some(why) = &problem.why {
        text.push_str(&format!("  why: {why}\n"));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("\n{bold}hint{reset}: {hint}\n"));
    }
    text
}

/// Lets only what cannot steer a terminal through; for text that an app or an image wrote.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
