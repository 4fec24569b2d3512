//! `holm images list`, `inspect` and `prune`.

use holm_api::Problem;
use holm_api::wire::{ImageDetail, ImageSummary};
use holm_model::id::Digest;
use serde::Serialize;

use super::Context;
use crate::args::Images;
use crate::exit::Failure;
use crate::output::harmless;
use crate::table::{ago, size, table};

#[derive(Serialize)]
struct List {
    images: Vec<ImageSummary>,
}

pub(crate) async fn run(verb: &Images, context: &Context<'_>) -> Result<(), Failure> {
    let (client, out) = (&context.client, context.out);
    match verb {
        Images::List => {
            let list = List { images: client.images().await? };
            out.show("images-list", &list, |list| {
                let row = |image: &ImageSummary| {
                    let made = ago(image.created_at, out.now);
                    let (used, names) = (image.used_by.join(", "), harmless(&image.references.join(" ")));
                    vec![image.digest.short().to_owned(), size(image.size), made, used, names]
                };
                let rows: Vec<Vec<String>> = list.images.iter().map(row).collect();
                table(&["DIGEST", "SIZE", "MADE", "USED BY", "NAMES"], &rows)
            })
        }
        Images::Inspect { image } => {
            let digest = find(image, &client.images().await?)?;
            out.show("images-inspect", &client.image(&digest).await?, render)
        }
        Images::Prune => {
            let report = client.prune_images().await?;
            out.show("images-prune", &report, |report| {
                let lines = report.removed.iter().map(|digest| format!("removed {digest}\n"));
                lines.collect::<String>() + &format!("{} free again\n", size(report.freed))
            })
        }
    }
}

/// The image that is meant: by digest, by its first digits, or by name.
fn find(word: &str, images: &[ImageSummary]) -> Result<Digest, Failure> {
    let digits = word.strip_prefix("sha256:").unwrap_or(word);
    let by_digits =
        |image: &&ImageSummary| digits.len() >= 4 && image.digest.as_str()["sha256:".len()..].starts_with(digits);
    let by_name = |image: &&ImageSummary| image.references.iter().any(|name| name == word);
    let found: Vec<_> = images.iter().filter(|image| by_digits(image) || by_name(image)).collect();
    match found.as_slice() {
        [one] => Ok(one.digest.clone()),
        [] => Err(Problem::not_found(format!("there is no image `{word}` on this host"))
            .hint("`holm images list` shows what there is")
            .into()),
        many => Err(Failure::usage(format!("`{word}` fits {} images", many.len())).hint("write more of the digest")),
    }
}

fn render(image: &ImageDetail) -> String {
    let summary = &image.summary;
    let mut text = String::new();
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{name:<12}  {}\n", harmless(&value)));
        }
    };
    fact("digest", summary.digest.to_string());
    fact("names", summary.references.join(" "));
    fact("size", size(summary.size));
    fact("used by", summary.used_by.join(", "));
    fact("processor", image.architecture.clone());
    fact("entrypoint", format_words(&image.entrypoint));
    fact("cmd", format_words(&image.cmd));
    fact("user", image.user.clone());
    fact("folder", image.working_dir.clone());
    fact("stop signal", image.stop_signal.clone().unwrap_or_default());
    fact("ports", image.exposed_ports.join(" "));
    for variable in &image.env {
        fact("env", variable.clone());
    }
    for layer in &image.layers {
        fact("layer", format!("{} {}", layer.digest, size(layer.size)));
    }
    text
}

fn format_words(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == '"');
        if plain { word.clone() } else { format!("{word:?}") }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
