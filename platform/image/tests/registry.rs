//! Registries: a real one with and without a password, and one that cuts, stalls and lies.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may fail and say why")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holm_image::pack::{Compression, LayerBuilder, add_image};
use holm_image::{ImageConfig, ImageStore, RegistryOptions, StoreOptions};

/// Kills the registry when the test ends.
struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_registry(folder: &Path, password_file: Option<&Path>) -> Running {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let auth = password_file
        .map_or(String::new(), |path| format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display()));
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
        folder.join("registry").display()
    );
    let path = folder.join("registry.yml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "docker-registry does not listen");
        std::thread::yield_now();
    }
    Running { child, address }
}

fn layout_with_image(folder: &Path) -> PathBuf {
    let mut layer = LayerBuilder::new();
    // Bytes that do not compress, so that the blob spans many reads.
    let noise: Vec<u8> =
        (0..3_000_000_u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (n >> 9) as u8).collect();
    layer.file("noise", noise);
    let config = ImageConfig { cmd: vec!["/noise".to_owned()], user: "nobody".to_owned(), ..ImageConfig::default() };
    let layout = folder.join("layout");
    add_image(&layout, "v1", &[layer.to_tar()], Compression::Zstd, &config).unwrap();
    layout
}

fn push(layout: &Path, address: &str, credentials: Option<&str>) {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--dest-tls-verify=false"]);
    if let Some(credentials) = credentials {
        command.args(["--dest-creds", credentials]);
    }
    command.arg(format!("oci:{}:v1", layout.display())).arg(format!("docker://{address}/team/app:v1"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn open(folder: &Path, registry: RegistryOptions) -> ImageStore {
    ImageStore::open(folder, StoreOptions { registry, ..StoreOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_from_a_real_registry_by_tag_and_by_digest() {
    let folder = tempfile::tempdir().unwrap();
    let registry = start_registry(folder.path(), None);
    push(&layout_with_image(folder.path()), &registry.address, None);
    let store = open(&folder.path().join("store"), RegistryOptions::default()).await;
    let resolved = store.resolve(&format!("{}/team/app:v1", registry.address).parse().unwrap()).await.unwrap();
    let image = store.prepare(&resolved, |_| {}).await.unwrap();
    assert_eq!((image.config.user.as_str(), image.config.cmd.len()), ("nobody", 1));
    let pinned = format!("{}/team/app@{}", registry.address, resolved.digest);
    let other = open(&folder.path().join("other"), RegistryOptions::default()).await;
    let again = other.resolve(&pinned.parse().unwrap()).await.unwrap();
    let again = other.prepare(&again, |_| {}).await.unwrap();
    assert_eq!(std::fs::read(image.erofs).unwrap(), std::fs::read(again.erofs).unwrap());
    let missing = store.resolve(&format!("{}/team/app:v2", registry.address).parse().unwrap()).await;
    assert!(missing.unwrap_err().to_string().contains("has no `team/app:v2`"));
}

#[tokio::test]
async fn a_password_opens_a_closed_registry() {
    let folder = tempfile::tempdir().unwrap();
    let line = Command::new("htpasswd").args(["-Bbn", "ada", "secret"]).output().unwrap();
    let file = folder.path().join("htpasswd");
    std::fs::write(&file, line.stdout).unwrap();
    let registry = start_registry(folder.path(), Some(&file));
    push(&layout_with_image(folder.path()), &registry.address, Some("ada:secret"));
    let reference = format!("{}/team/app:v1", registry.address).parse().unwrap();
    let closed = open(&folder.path().join("closed"), RegistryOptions::default()).await;
    assert!(closed.resolve(&reference).await.unwrap_err().to_string().contains("denies access"));
    let address = &registry.address;
    for (name, auth, opens) in [
        ("base64", serde_json::json!({"auth": "YWRhOnNlY3JldA=="}), true),
        ("plain", serde_json::json!({"username": "ada", "password": "secret"}), true),
        ("wrong", serde_json::json!({"username": "ada", "password": "guess"}), false),
    ] {
        let credentials = folder.path().join(format!("{name}.json"));
        std::fs::write(&credentials, serde_json::json!({"auths": {address: auth}}).to_string()).unwrap();
        let options = RegistryOptions { credentials_file: Some(credentials), ..RegistryOptions::default() };
        let store = open(&folder.path().join(name), options).await;
        match store.resolve(&reference).await {
            Ok(resolved) => drop(store.prepare(&resolved, |_| {}).await.unwrap()),
            Err(error) => assert!(!opens, "{name}: {error}"),
        }
    }
}

/// How the fake registry treats requests for layers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Cuts the connection twice, then answers ranges.
    Cut,
    /// As above, and ignores ranges.
    CutWithoutRanges,
    /// Sends a little, then nothing, the first time.
    Stall,
    WrongBytes,
    TooMany,
    AlwaysCut,
    /// Wants a token from its own token service.
    Token,
}

struct Fake {
    address: String,
    layer_requests: Arc<AtomicUsize>,
    ranges: Arc<Mutex<Vec<String>>>,
}

fn fake_registry(layout: PathBuf, fault: Fault) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fake = Fake { address: address.clone(), layer_requests: Arc::default(), ranges: Arc::default() };
    let (requests, ranges) = (Arc::clone(&fake.layer_requests), Arc::clone(&fake.ranges));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (layout, address) = (layout.clone(), address.clone());
            let (requests, ranges) = (Arc::clone(&requests), Arc::clone(&ranges));
            std::thread::spawn(move || {
                let _ = answer(&mut stream.unwrap(), &layout, fault, &address, &requests, &ranges);
            });
        }
    });
    fake
}

fn answer(
    stream: &mut TcpStream,
    layout: &Path,
    fault: Fault,
    address: &str,
    requests: &AtomicUsize,
    ranges: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("range: bytes=") {
            range = value.trim().trim_end_matches('-').parse::<usize>().ok();
            ranges.lock().unwrap().push(value.trim().to_owned());
        }
        token |= header.trim().ends_with("Bearer let-me-in");
    }
    if path.starts_with("/token") {
        let body = "{\"token\":\"let-me-in\"}";
        assert!(path.contains("scope=repository%3Ateam%2Fapp%3Apull") && path.contains("service=fake"), "{path}");
        return write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    }
    if fault == Fault::Token && !token {
        return write!(
            stream,
            "HTTP/1.1 401 No\r\nconnection: close\r\ncontent-length: 0\r\nwww-authenticate: Bearer realm=\"http://{address}/token\",service=\"fake\",scope=\"repository:team/app:pull\"\r\n\r\n"
        );
    }
    let name = path.rsplit('/').next().unwrap();
    let index =
        || -> serde_json::Value { serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap() };
    let digest =
        if name == "v1" { index()["manifests"][0]["digest"].as_str().unwrap().to_owned() } else { name.to_owned() };
    let mut body = std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))?;
    let is_layer = body.len() > 100_000;
    let number = if is_layer { requests.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let ranged = fault != Fault::CutWithoutRanges;
    let (status, from) = match range.filter(|_| ranged) {
        Some(from) => (format!("206 Partial\r\ncontent-range: bytes {from}-{}/{}", body.len() - 1, body.len()), from),
        None => ("200 OK".to_owned(), 0),
    };
    if is_layer && fault == Fault::WrongBytes {
        body[1000] ^= 1;
    }
    if is_layer && fault == Fault::TooMany {
        body.push(0);
    }
    let body = &body[from..];
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
    match fault {
        Fault::Cut | Fault::CutWithoutRanges if is_layer && number < 2 => stream.write_all(&body[..body.len() / 2]),
        Fault::AlwaysCut if is_layer => stream.write_all(&body[..10.min(body.len())]),
        Fault::Stall if is_layer && number == 0 => {
            stream.write_all(&body[..200_000])?;
            // Holds the connection open until the client gives up.
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        _ => stream.write_all(body),
    }
}

#[tokio::test]
async fn faults_of_a_registry_are_survived_or_refused() {
    for (fault, refusal) in [
        (Fault::None, None),
        (Fault::Token, None),
        (Fault::Cut, None),
        (Fault::CutWithoutRanges, None),
        (Fault::Stall, None),
        (Fault::WrongBytes, Some("was asked for")),
        (Fault::TooMany, Some("larger than")),
        (Fault::AlwaysCut, Some("cannot reach")),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let fake = fake_registry(layout_with_image(folder.path()), fault);
        let options = RegistryOptions { stall_timeout: Duration::from_millis(300), ..RegistryOptions::default() };
        let root = folder.path().join("store");
        let store = open(&root, options).await;
        let resolved = store.resolve(&format!("{}/team/app:v1", fake.address).parse().unwrap()).await.unwrap();
        let result = store.prepare(&resolved, |_| {}).await;
        match (result, refusal) {
            (Ok(image), None) => assert!(image.erofs.exists(), "{fault:?}"),
            (Err(error), Some(reason)) => {
                assert!(error.to_string().contains(reason), "{fault:?}: {error}")
            }
            (result, _) => panic!("{fault:?}: {result:?}"),
        }
        assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0, "{fault:?} left a file");
        let ranges = fake.ranges.lock().unwrap();
        let resumed = matches!(fault, Fault::Cut | Fault::CutWithoutRanges | Fault::Stall | Fault::AlwaysCut);
        assert_eq!(!ranges.is_empty(), resumed, "{fault:?}: {ranges:?}");
        assert!(!ranges.iter().any(|range| range == "0-"), "{fault:?}: {ranges:?}");
    }
}

#[tokio::test]
async fn equal_downloads_are_shared() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake_registry(layout_with_image(folder.path()), Fault::None);
    let store = open(&folder.path().join("store"), RegistryOptions::default()).await;
    let resolved = store.resolve(&format!("{}/team/app:v1", fake.address).parse().unwrap()).await.unwrap();
    let results = tokio::join!(
        store.prepare(&resolved, |_| {}),
        store.prepare(&resolved, |_| {}),
        store.prepare(&resolved, |_| {}),
    );
    assert!(results.0.is_ok() && results.1.is_ok() && results.2.is_ok());
    assert_eq!(fake.layer_requests.load(Ordering::SeqCst), 1);
}
