//! Random sequences of layers give what a small model of the OCI layer rules says (image spec 1.1, `layer.md`).

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail and say why")]

use std::collections::BTreeMap;
use std::fs::File;
use std::rc::Rc;

use holm_image::erofs::{FileType, Reader};
use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{ImageConfig, ImageStore, StoreOptions};
use proptest::prelude::*;

/// One entry of a layer. Names are indexes into [`NAMES`].
#[derive(Debug, Clone)]
enum Step {
    Folder(Vec<usize>),
    File(Vec<usize>, u8),
    Symlink(Vec<usize>, u8),
    HardLink(Vec<usize>, Vec<usize>),
    Whiteout(Vec<usize>),
    Opaque(Vec<usize>),
}

/// Few, so that layers meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What the model knows of a path. Hard links share their file.
#[derive(Debug, Clone)]
enum Node {
    Folder,
    File(Rc<Vec<u8>>),
    Symlink(String),
}

/// The model: every path that exists, and the paths that the layer in hand wrote.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<Vec<usize>, Node>,
}

impl Model {
    /// Paths below `path`, without it.
    fn below(&self, path: &[usize]) -> Vec<Vec<usize>> {
        self.nodes.keys().filter(|other| other.len() > path.len() && other.starts_with(path)).cloned().collect()
    }

    fn remove(&mut self, path: &[usize]) {
        for path in self.below(path) {
            self.nodes.remove(&path);
        }
        self.nodes.remove(path);
    }

    /// Whether every folder on the way is a folder or missing.
    fn reachable(&self, path: &[usize]) -> bool {
        (1..path.len()).all(|end| matches!(self.nodes.get(&path[..end]), None | Some(Node::Folder)))
    }

    fn make_parents(&mut self, path: &[usize]) {
        for end in 1..path.len() {
            self.nodes.entry(path[..end].to_vec()).or_insert(Node::Folder);
        }
    }

    /// Applies a layer as the specification tells it: what it hides of the layers below goes first, wherever in the archive
    /// that stands; then its entries follow in order. Gives the steps that mean something; the others are left out.
    fn layer(&mut self, steps: &[Step]) -> Vec<Step> {
        let mut kept = Vec::new();
        let mut after = Self { nodes: self.nodes.clone() };
        for step in steps {
            match step {
                Step::Whiteout(path) => after.remove(path),
                Step::Opaque(path) => {
                    for path in after.below(path) {
                        after.nodes.remove(&path);
                    }
                }
                _ => {}
            }
        }
        for step in steps {
            // An entry must fit both what was and what is: the archive is applied as it comes.
            let possible = match step {
                Step::Whiteout(_) | Step::Opaque(_) => true,
                Step::Folder(path) | Step::File(path, _) | Step::Symlink(path, _) => {
                    self.reachable(path) && after.reachable(path)
                }
                Step::HardLink(path, target) => {
                    self.reachable(path)
                        && after.reachable(path)
                        && path != target
                        && after.reachable(target)
                        && matches!(after.nodes.get(target), Some(Node::File(_)))
                        && !target.starts_with(path)
                }
            };
            if !possible {
                continue;
            }
            match step {
                Step::Whiteout(_) | Step::Opaque(_) => {}
                Step::Folder(path) => {
                    after.make_parents(path);
                    if !matches!(after.nodes.get(path), Some(Node::Folder)) {
                        after.remove(path);
                        after.nodes.insert(path.clone(), Node::Folder);
                    }
                }
                Step::File(path, content) => {
                    after.make_parents(path);
                    after.remove(path);
                    after.nodes.insert(path.clone(), Node::File(Rc::new(content_of(*content))));
                }
                Step::Symlink(path, target) => {
                    after.make_parents(path);
                    after.remove(path);
                    after.nodes.insert(path.clone(), Node::Symlink(format!("/nowhere/{target}")));
                }
                Step::HardLink(path, target) => {
                    let node = after.nodes[target].clone();
                    after.make_parents(path);
                    after.remove(path);
                    after.nodes.insert(path.clone(), node);
                }
            }
            kept.push(step.clone());
        }
        *self = after;
        kept
    }

    fn listing(&self) -> BTreeMap<String, String> {
        let show = |(path, node): (&Vec<usize>, &Node)| {
            let told = match node {
                Node::Folder => "folder".to_owned(),
                Node::Symlink(target) => format!("link {target}"),
                Node::File(content) => {
                    let same = |other: &Node| matches!(other, Node::File(other) if Rc::ptr_eq(other, content));
                    let links = self.nodes.values().filter(|other| same(other)).count();
                    format!("file {} x{links}", told(content))
                }
            };
            (text(path), told)
        };
        self.nodes.iter().map(show).collect()
    }
}

fn told(content: &[u8]) -> String {
    format!("{} bytes of {:?}", content.len(), content.first())
}

/// Empty, smaller than a block, and larger than one.
fn content_of(kind: u8) -> Vec<u8> {
    vec![kind; [0, 1, 100, 4096, 5000][usize::from(kind) % 5]]
}

fn text(path: &[usize]) -> String {
    path.iter().map(|name| NAMES[*name]).collect::<Vec<_>>().join("/")
}

fn archive(steps: &[Step]) -> Vec<u8> {
    let mut layer = LayerBuilder::new();
    for step in steps {
        match step {
            Step::Folder(path) => {
                layer.folder(text(path));
            }
            Step::File(path, content) => {
                layer.file(text(path), content_of(*content));
            }
            Step::Symlink(path, target) => {
                layer.symlink(text(path), format!("/nowhere/{target}"));
            }
            Step::HardLink(path, target) => {
                layer.hard_link(text(path), text(target));
            }
            Step::Whiteout(path) => {
                let (name, folders) = path.split_last().unwrap();
                let marker = format!(".wh.{}", NAMES[*name]);
                let at = if folders.is_empty() { marker } else { format!("{}/{marker}", text(folders)) };
                layer.file(at, "");
            }
            Step::Opaque(path) => {
                layer.file(format!("{}/.wh..wh..opq", text(path)), "");
            }
        }
    }
    layer.to_tar()
}

fn built(layers: &[Vec<u8>]) -> Result<BTreeMap<String, String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    add_image(&layout, "v1", layers, Compression::None, &ImageConfig::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let image = runtime.block_on(async {
        let store = ImageStore::open(folder.path().join("store"), StoreOptions::default()).await.unwrap();
        let resolved = store.resolve(&format!("oci:{}", layout.display()).parse().unwrap()).await.unwrap();
        store.prepare(&resolved, |_| {}).await.map_err(|error| format!("{error:?}"))
    })?;
    let reader = Reader::open(File::open(image.erofs).unwrap()).unwrap();
    let mut listing = BTreeMap::new();
    reader
        .walk(|path, inode| {
            let told = match inode.file_type() {
                FileType::Folder => "folder".to_owned(),
                FileType::Symlink => {
                    format!("link {}", String::from_utf8(reader.read_link(inode).unwrap()).unwrap())
                }
                FileType::File => {
                    format!("file {} x{}", told(&reader.read_all(inode, 1 << 20).unwrap()), inode.links())
                }
                other => format!("{other:?}"),
            };
            let path = String::from_utf8(path.to_vec()).unwrap();
            listing.insert(path.trim_start_matches('/').to_owned(), told);
        })
        .unwrap();
    Ok(listing)
}

fn path() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..NAMES.len(), 1..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => path().prop_map(Step::Folder),
        4 => (path(), any::<u8>()).prop_map(|(path, content)| Step::File(path, content)),
        1 => (path(), any::<u8>()).prop_map(|(path, target)| Step::Symlink(path, target)),
        2 => (path(), path()).prop_map(|(path, target)| Step::HardLink(path, target)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_layers_give_what_the_model_says(layers in proptest::collection::vec(proptest::collection::vec(step(), 0..12), 1..5)) {
        let mut model = Model::default();
        let kept: Vec<_> = layers.iter().map(|layer| model.layer(layer)).collect();
        let archives: Vec<_> = kept.iter().map(|layer| archive(layer)).collect();
        prop_assert_eq!(built(&archives), Ok(model.listing()), "layers {:#?}", kept);
    }
}
