//! Links of the documentation: what a page points to in this workspace must be there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::{command, output};

/// Links of the pages below `root` that git knows which lead nowhere, each as `page: target`.
///
/// # Errors
/// When git does not answer, or a page cannot be read.
pub(crate) fn broken(root: &Path) -> Result<Vec<String>> {
    let pages = output(&mut command(root, "git", &["ls-files", "--", "*.md"]))?;
    let mut broken = Vec::new();
    for page in pages.lines() {
        let text = fs::read_to_string(root.join(page)).with_context(|| format!("cannot read {page}"))?;
        let folder = Path::new(page).parent().map_or_else(PathBuf::new, Path::to_path_buf);
        for target in targets(&text) {
            if !root.join(&folder).join(target).exists() {
                broken.push(format!("{page}: {target}"));
            }
        }
    }
    Ok(broken)
}

/// The files that a page in Markdown links to: no web addresses, no places in the page itself, nothing in blocks of code.
fn targets(text: &str) -> Vec<&str> {
    let mut in_block = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        for rest in line.split("](").skip(1) {
            let Some((target, _)) = rest.split_once(')') else { continue };
            let file = target.split(['#', ' ']).next().unwrap_or_default();
            if !file.is_empty() && !file.contains(':') {
                found.push(file);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found() {
        let text = "[a](b.md) and [c](../d/e.rs#L3), [web](https://x.example/y), [here](#there)\n\
                    ```\n[no](code.md)\n```\n[f](g \"title\")";
        assert_eq!(targets(text), ["b.md", "../d/e.rs", "g"]);
    }

    #[test]
    fn a_link_that_leads_nowhere_is_told() {
        let folder = std::env::temp_dir().join(format!("holm-links-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("page.md"), "[there](page.md) [gone](gone.md)").unwrap();
        for arguments in [&["init", "--quiet"][..], &["add", "page.md"]] {
            output(&mut command(&folder, "git", arguments)).unwrap();
        }
        assert_eq!(broken(&folder).unwrap(), ["page.md: gone.md"]);
        fs::remove_dir_all(&folder).unwrap();
    }
}
