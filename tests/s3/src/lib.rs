//! An S3 server on loopback for tests: s3s, which checks every signature, over a folder; with the faults of a server.
//!
//! It knows nothing of Holm: what is asked of it comes through its port.

#![forbid(unsafe_code)]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "holm-tests";

/// The secret that belongs to it.
pub const SECRET: &str = "only-for-tests";

/// Faults that are still to come.
#[derive(Debug, Default)]
struct Faults {
    /// Requests that are answered with status 503 yet.
    busy: AtomicU64,
    /// With this object from now on the server goes away; 0: it stays.
    last: AtomicU64,
    gone: CancellationToken,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    address: SocketAddr,
    faults: Arc<Faults>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves `folder`, each folder in it being a bucket, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot listen, or the folder cannot be used.
    pub fn start(folder: &Path) -> io::Result<Self> {
        Self::listen(folder, (Ipv4Addr::LOCALHOST, 0).into())
    }

    fn listen(folder: &Path, address: SocketAddr) -> io::Result<Self> {
        let files = s3s_fs::FileSystem::new(folder).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let faults = Arc::new(Faults::default());
        let served = Arc::clone(&faults);
        // Dropping the runtime closes the listener and every connection.
        let thread = std::thread::spawn(move || {
            let gone = served.gone.clone();
            let _ = runtime.block_on(gone.run_until_cancelled(accept(listener, service, served)));
        });
        Ok(Self { folder: folder.to_owned(), address, faults, thread: Some(thread) })
    }

    /// Serves the same folder on the same port again, after it went away.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub fn again(mut self) -> io::Result<Self> {
        self.stop();
        Self::listen(&self.folder, self.address)
    }

    /// What clients are told of it, as environment variables.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// Answers the next `requests` with status 503, as a server does that has too much to do.
    pub fn be_busy(&self, requests: u64) {
        self.faults.busy.store(requests, Ordering::SeqCst);
    }

    /// Takes `objects` more and goes away with the next one: no answer, no connection, no listener.
    pub fn go_after(&self, objects: u64) {
        self.faults.last.store(objects + 1, Ordering::SeqCst);
    }

    fn stop(&mut self) {
        self.faults.gone.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the server shows in the test as a server that is gone.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn accept(listener: std::net::TcpListener, service: S3Service, faults: Arc<Faults>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream, service.clone(), Arc::clone(&faults)));
    }
}

async fn serve(stream: TcpStream, service: S3Service, faults: Arc<Faults>) {
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, faults) = (service.clone(), Arc::clone(&faults));
        async move {
            let one_less = |left: u64| left.checked_sub(1);
            if faults.busy.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
                let mut busy = Response::new(Body::empty());
                *busy.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                return Ok(busy);
            }
            if request.method() == Method::PUT
                && faults.last.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) == Ok(1)
            {
                faults.gone.cancel();
                std::future::pending::<()>().await;
            }
            service.call(request.map(Body::from)).await
        }
    });
    // A client that goes away early has its reasons.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}
