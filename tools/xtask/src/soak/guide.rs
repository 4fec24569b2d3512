//! The operator guide as a test: its commands, in order and as they stand there, on a fresh Debian; and what they must show.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::machine::Machine;
use crate::build::dist;
use crate::load::Load;
use crate::workspace::{target, workspace};

/// What to do with the machine.
#[derive(Debug, Args)]
pub struct Options {
    /// Leave the machine's files and its console's log in target/guide
    #[arg(long)]
    keep: bool,
    /// Requests per second while the host is upgraded
    #[arg(long, default_value_t = 10)]
    rate: u32,
}

/// The chapter that is followed.
const CHAPTER: &str = "## From an empty machine to an app you can trust";

/// The section during which clients ask, and the port they ask.
const UNDER_LOAD: &str = "### Upgrade the host under load";
const PORT: u16 = 8080;

/// What precedes a part of what a line must show.
const SHOWS: &str = "# => ";

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The heading it stands under.
    section: String,
    script: String,
}

impl Block {
    /// What must be seen, in order.
    fn shown(&self) -> impl Iterator<Item = &str> {
        self.script.lines().filter_map(|line| line.split_once(SHOWS)).map(|(_, text)| text.trim())
    }

    /// Whether everything that must be seen was, in order.
    fn check(&self, seen: &str) -> Result<()> {
        let mut rest = seen;
        for wanted in self.shown() {
            let at = rest.find(wanted).with_context(|| format!("`{wanted}` was not shown"))?;
            rest = &rest[at + wanted.len()..];
        }
        Ok(())
    }
}

/// The blocks of the chapter.
fn blocks(guide: &str) -> Result<Vec<Block>> {
    let (_, chapter) = guide.split_once(CHAPTER).context("the guide has no such chapter")?;
    let chapter = chapter.split("\n## ").next().unwrap_or(chapter);
    let (mut section, mut blocks, mut open) = (String::new(), Vec::new(), None::<String>);
    for line in chapter.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(String::new()),
            (None, heading) if heading.starts_with("### ") => heading.clone_into(&mut section),
            (None, other) => ensure!(!other.starts_with("```"), "a block of the chapter is no `sh`: {other}"),
            (Some(_), "```") => {
                let script = open.take().unwrap_or_default();
                blocks.push(Block { section: section.clone(), script });
            }
            (Some(script), line) => {
                script.push_str(line);
                script.push('\n');
            }
        }
    }
    ensure!(open.is_none() && !blocks.is_empty(), "the chapter has no blocks, or one without an end");
    Ok(blocks)
}

/// Follows the guide.
///
/// # Errors
/// When a command fails, does not show what stands behind it, or a connection fails meanwhile.
pub fn run(options: &Options) -> Result<()> {
    let blocks = blocks(&fs::read_to_string(workspace().join("docs/operations.md"))?)?;
    let dist = dist()?;
    let folder = target().join("guide");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let machine = Machine::boot(&folder)?;
    // What the guide says to copy.
    copy(&dist, &machine.root().join("root/dist"))?;
    let followed = follow(&machine, &blocks, options.rate);
    if followed.is_err() {
        let _ = machine
            .run("holm status; holm ps --all; journalctl --unit holm --no-pager --lines 60; holm events | tail -20");
    }
    drop(machine);
    if !options.keep {
        fs::remove_dir_all(&folder)?;
    }
    followed
}

fn follow(machine: &Machine, blocks: &[Block], rate: u32) -> Result<()> {
    let mut section = "";
    for block in blocks {
        if block.section != section {
            section = &block.section;
            println!("\n{section}");
        }
        println!("{}", block.script.trim_end());
        let begun = Instant::now();
        let load = match section == UNDER_LOAD {
            true => Some(machine.inside(|| Load::start(PORT, rate))?),
            false => None,
        };
        let ran = machine.run(&block.script);
        let outcome = load.map(Load::end).transpose()?;
        let failed = || format!("in `{section}`");
        block.check(&ran.with_context(failed)?).with_context(failed)?;
        if let Some(outcome) = outcome {
            outcome.check().with_context(failed)?;
            let (one, kept, requests) = (outcome.one_shot, outcome.kept, outcome.requests);
            println!("  meanwhile {one} connections for one request and {kept} with {requests} requests; none failed");
        }
        println!("  done in {:.1} s", begun.elapsed().as_secs_f64());
    }
    println!("\nthe guide does what it says: {} blocks of commands", blocks.len());
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied =
        std::process::Command::new("cp").args(["--recursive", "--preserve=mode"]).arg(from).arg(to).status()?;
    ensure!(copied.success(), "cannot copy {} into the machine", from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_has_blocks_in_the_sections_that_are_followed() {
        let guide = fs::read_to_string(workspace().join("docs/operations.md")).unwrap();
        let blocks = blocks(&guide).unwrap();
        assert!(blocks.len() >= 9, "{}", blocks.len());
        assert_eq!(blocks.iter().filter(|block| block.section == UNDER_LOAD).count(), 1);
        assert!(blocks.iter().flat_map(Block::shown).count() >= 10);
        assert!(guide.contains("cargo xtask soak guide"));
    }

    #[test]
    fn what_must_be_shown_is_looked_for_in_order() {
        let guide = format!("{CHAPTER}\n### One\n```sh\na # => first\nb # => second\n```\n## Next\n```toml\n```\n");
        let block = blocks(&guide).unwrap().remove(0);
        assert_eq!(block.section, "### One");
        block.check("the first\nthe second\n").unwrap();
        assert!(block.check("the second\nthe first\n").is_err());
        assert!(block.check("the first\n").is_err());
        assert!(blocks(&guide.replace("```sh", "```console")).is_err());
    }
}
