//! The images of the demo and the tests: the example app, nginx with TLS and busybox, packed without Docker.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use holm_image::ImageConfig;
use holm_image::pack::{Compression, LayerBuilder, add_image};
use rustls::pki_types::CertificateDer;

use crate::command::{command, output};
use crate::debian;

/// What nginx serves at `/`.
pub const SHOP_PAGE: &str = "nobody here wrote the server of this page";

/// Packages of Debian's nginx and of the libraries it loads.
const NGINX_PACKAGES: [&str; 8] =
    ["nginx", "nginx-common", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g", "media-types"];

/// A manifest for nginx behind the host name `shop.example`.
pub const SHOP_MANIFEST: &str = r#"schema = 1
app = "shop"

[process.web]
memory = "96MiB"

[process.web.health]
tcp = { port = 8443 }
interval = "1s"

[process.web.stop]
grace = "5s"
drain = "2s"

[[route]]
process = "web"
port = 8443
sni = "shop.example"
"#;

/// A manifest for the example app: a health check, a route from `port` of the host, and its greeting.
#[must_use]
pub fn hello_manifest(port: u16, greeting: &str) -> String {
    let example = include_str!("../../../examples/hello/holm.toml");
    let moved = example.replace("listen = 8080", &format!("listen = {port}"));
    moved.replace("GREETING = \"hello\"", &format!("GREETING = {greeting:?}"))
}

/// A certificate for one host name, signed by itself.
#[derive(Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    key_pem: String,
}

impl Certificate {
    /// A new certificate and key for `name`.
    ///
    /// # Errors
    /// When `name` cannot stand in a certificate.
    pub fn new(name: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let key_pem = made.signing_key.serialize_pem();
        Ok(Self { der: made.cert.der().clone(), pem: made.cert.pem(), key_pem })
    }

    /// The certificate as TLS clients want it.
    #[must_use]
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// Packs the static program `hello` alone into a layout in `folder`; gives `oci:folder:1`.
///
/// # Errors
/// When the program cannot be read or the folder not be written.
pub fn hello(folder: &Path, hello: &Path) -> Result<String> {
    let program = fs::read(hello).with_context(|| format!("cannot read {}", hello.display()))?;
    let mut layer = LayerBuilder::new();
    layer.file("hello", program).mode(0o755);
    let config = ImageConfig {
        entrypoint: vec!["/hello".to_owned()],
        cmd: vec!["--port".to_owned(), "8080".to_owned()],
        user: "1000:1000".to_owned(),
        ..ImageConfig::default()
    };
    add_image(folder, "1", &[layer.to_tar()], Compression::Gzip, &config)?;
    Ok(format!("oci:{}:1", folder.display()))
}

/// Packs Debian's static busybox with its usual names into a layout in `folder`; gives `oci:folder:1`.
///
/// # Errors
/// When the package cannot be had or the folder not be written.
pub fn busybox(cache: &Path, folder: &Path) -> Result<String> {
    let unpacked = debian::unpacked(&cache.join("busybox-static"), &["busybox-static"])?;
    let mut layer = LayerBuilder::new();
    layer.file("bin/busybox", fs::read(unpacked.join("bin/busybox"))?).mode(0o755);
    for name in ["sh", "cat", "echo", "env", "httpd", "id", "ls", "nc", "sleep", "stty", "wget", "kill", "ping", "df"] {
        layer.symlink(format!("bin/{name}"), "busybox");
    }
    layer.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n");
    layer.file("etc/group", "root:x:0:\nweb:x:33:\n");
    layer.file("srv/index.html", "busybox\n");
    let config = ImageConfig {
        cmd: ["/bin/httpd", "-f", "-p", "8080", "-h", "/srv"].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned(), "FROM_IMAGE=yes".to_owned()],
        ..ImageConfig::default()
    };
    add_image(folder, "1", &[layer.to_tar()], Compression::Zstd, &config)?;
    Ok(format!("oci:{}:1", folder.display()))
}

/// Packs nginx from Debian packages, with a TLS server for `certificate`, into a layout in `folder`: the packages as one
/// layer, the configuration as another. The tag is `1`.
///
/// # Errors
/// When the packages cannot be had or the folder not be written.
pub fn nginx(cache: &Path, folder: &Path, certificate: &Certificate) -> Result<PathBuf> {
    let packages = nginx_packages(cache)?;
    let mut site = LayerBuilder::new();
    site.file("etc/nginx/nginx.conf", NGINX_CONF);
    site.file("etc/nginx/cert.pem", certificate.pem.as_str());
    site.file("etc/nginx/key.pem", certificate.key_pem.as_str()).mode(0o600);
    site.file("srv/index.html", format!("{SHOP_PAGE}\n"));
    add_image(folder, "1", &[packages.to_tar(), site.to_tar()], Compression::Gzip, &nginx_config())?;
    Ok(folder.to_owned())
}

/// Packs nginx from Debian packages, which serves `/data` on port 8080, into a layout in `folder`, with busybox to write
/// there; gives `oci:folder:1`.
///
/// # Errors
/// When the packages cannot be had or the folder not be written.
pub fn nginx_of_files(cache: &Path, folder: &Path) -> Result<String> {
    let packages = nginx_packages(cache)?;
    let mut site = LayerBuilder::new();
    site.file("etc/nginx/nginx.conf", NGINX_FILES_CONF);
    let busybox = debian::unpacked(&cache.join("busybox-static"), &["busybox-static"])?;
    site.file("bin/busybox", fs::read(busybox.join("bin/busybox"))?).mode(0o755);
    add_image(folder, "1", &[packages.to_tar(), site.to_tar()], Compression::Gzip, &nginx_config())?;
    Ok(format!("oci:{}:1", folder.display()))
}

/// Debian's nginx with the users and folders it wants.
fn nginx_packages(cache: &Path) -> Result<LayerBuilder> {
    let unpacked = debian::unpacked(&cache.join("nginx"), &NGINX_PACKAGES)?;
    let mut packages = LayerBuilder::new();
    for part in ["etc", "lib", "lib64", "usr/lib", "usr/sbin", "usr/share/nginx"] {
        let from = unpacked.join(part);
        if from.exists() {
            packages.tree(&from, part)?;
        }
    }
    packages.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/sh\n");
    packages.file("etc/group", "root:x:0:\nwww-data:x:33:\n");
    for made in ["var/lib/nginx", "var/log/nginx", "run", "tmp"] {
        packages.folder(made);
    }
    Ok(packages)
}

fn nginx_config() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["/usr/sbin/nginx".to_owned()],
        cmd: ["-g", "daemon off;"].map(str::to_owned).to_vec(),
        stop_signal: Some("SIGQUIT".to_owned()),
        ..ImageConfig::default()
    }
}

/// Packages of Debian's Redis and of the libraries it loads; busybox for looking around.
const REDIS_PACKAGES: [&str; 17] = [
    "redis-server",
    "redis-tools",
    "libatomic1",
    "libjemalloc2",
    "liblzf1",
    "libssl3",
    "libsystemd0",
    "libcap2",
    "libgcrypt20",
    "liblz4-1",
    "liblzma5",
    "libzstd1",
    "libgpg-error0",
    "libc6",
    "libstdc++6",
    "libgcc-s1",
    "busybox-static",
];

/// Packs Redis from Debian packages, which writes every change to `/data` before it answers, into a layout in `folder`;
/// gives `oci:folder:1`.
///
/// # Errors
/// When the packages cannot be had or the folder not be written.
pub fn redis(cache: &Path, folder: &Path) -> Result<String> {
    let unpacked = debian::unpacked(&cache.join("redis"), &REDIS_PACKAGES)?;
    let mut packages = LayerBuilder::new();
    for part in ["lib", "lib64", "usr/lib", "usr/bin"] {
        let from = unpacked.join(part);
        if from.exists() {
            packages.tree(&from, part)?;
        }
    }
    packages.file("bin/busybox", fs::read(unpacked.join("bin/busybox"))?).mode(0o755);
    packages.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nredis:x:999:999:redis:/data:/bin/sh\n");
    packages.file("etc/group", "root:x:0:\nredis:x:999:\n");
    let command =
        ["--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--protected-mode", "no"];
    let config = ImageConfig {
        entrypoint: vec!["/usr/bin/redis-server".to_owned()],
        cmd: command.map(str::to_owned).to_vec(),
        user: "redis".to_owned(),
        env: vec!["PATH=/usr/bin".to_owned()],
        ..ImageConfig::default()
    };
    add_image(folder, "1", &[packages.to_tar()], Compression::Zstd, &config)?;
    Ok(format!("oci:{}:1", folder.display()))
}

/// Packages of Debian's PostgreSQL 15 and of the libraries it loads; busybox for its start.
const POSTGRESQL_PACKAGES: [&str; 40] = [
    "postgresql-15",
    "postgresql-client-15",
    "busybox-static",
    "libaudit1",
    "libc6",
    "libcap-ng0",
    "libcap2",
    "libcom-err2",
    "libffi8",
    "libgcc-s1",
    "libgcrypt20",
    "libgmp10",
    "libgnutls30",
    "libgpg-error0",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libicu72",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "liblz4-1",
    "liblzma5",
    "libnettle8",
    "libp11-kit0",
    "libpam0g",
    "libpq5",
    "libreadline8",
    "libsasl2-2",
    "libssl3",
    "libstdc++6",
    "libsystemd0",
    "libtasn1-6",
    "libtinfo6",
    "libunistring2",
    "libxml2",
    "libzstd1",
    "zlib1g",
];

/// Makes the first files aside, so that a kill leaves none that are taken for whole ones.
const POSTGRESQL_START: &str = "#!/bin/busybox sh
bin=/usr/lib/postgresql/15/bin
if [ ! -d /data/db ]; then
    /bin/busybox rm -rf /data/new
    $bin/initdb -D /data/new -U postgres --auth=trust --no-locale -E UTF8 || exit 1
    /bin/busybox mv /data/new /data/db
    /bin/busybox sync
fi
exec $bin/postgres -D /data/db -c listen_addresses='*' -c unix_socket_directories=/tmp -c jit=off \
    -c shared_buffers=32MB -c dynamic_shared_memory_type=mmap
";

/// Packs PostgreSQL 15 from Debian packages, with its files in `/data/db`, into a layout in `folder`; gives `oci:folder:1`.
///
/// # Errors
/// When the packages cannot be had or the folder not be written.
pub fn postgresql(cache: &Path, folder: &Path) -> Result<String> {
    let unpacked = debian::unpacked(&cache.join("postgresql"), &POSTGRESQL_PACKAGES)?;
    let mut packages = LayerBuilder::new();
    for part in ["lib", "lib64", "usr/lib", "usr/share/postgresql"] {
        let from = unpacked.join(part);
        if from.exists() {
            packages.tree(&from, part)?;
        }
    }
    packages.file("bin/busybox", fs::read(unpacked.join("bin/busybox"))?).mode(0o755);
    // initdb starts its helpers through a shell.
    packages.symlink("bin/sh", "busybox");
    packages.file("start", POSTGRESQL_START).mode(0o755);
    packages.file("etc/passwd", "root:x:0:0:root:/:/bin/sh\npostgres:x:999:999:postgres:/data:/bin/sh\n");
    packages.file("etc/group", "root:x:0:\npostgres:x:999:\n");
    packages.folder("tmp").mode(0o1777);
    let config = ImageConfig {
        entrypoint: vec!["/start".to_owned()],
        user: "postgres".to_owned(),
        env: vec!["PATH=/usr/lib/postgresql/15/bin:/bin".to_owned(), "LC_ALL=C".to_owned()],
        ..ImageConfig::default()
    };
    add_image(folder, "1", &[packages.to_tar()], Compression::Zstd, &config)?;
    Ok(format!("oci:{}:1", folder.display()))
}

const NGINX_CONF: &str = "user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events { worker_connections 512; }
http {
    access_log /dev/stdout;
    server {
        listen [::]:8443 ssl ipv6only=off;
        ssl_certificate /etc/nginx/cert.pem;
        ssl_certificate_key /etc/nginx/key.pem;
        root /srv;
    }
}
";

const NGINX_FILES_CONF: &str = "user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events { worker_connections 512; }
http {
    access_log off;
    server {
        listen [::]:8080 ipv6only=off;
        root /data;
    }
}
";

/// The digest of the image `tag` in the layout `folder`, as skopeo sees it.
///
/// # Errors
/// When skopeo cannot read the layout.
pub fn digest_of(folder: &Path, tag: &str) -> Result<String> {
    let image = format!("oci:{}:{tag}", folder.display());
    let shown = output(command(folder, "skopeo", &["inspect", "--format", "{{.Digest}}"]).arg(image))?;
    Ok(shown.trim().to_owned())
}
