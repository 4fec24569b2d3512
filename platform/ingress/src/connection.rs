//! One connection from accept to close.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::admission::{HalfOpen, Permit, Source};
use crate::arrival::{self, Origin};
use crate::hello::{Assembler, HelloError};
use crate::ingress::Shared;
use crate::listen;
use crate::live::{Entered, LiveListener, LiveRoute, Target};
use crate::pump::{Broken, Pump};
use crate::stats::{Refusal, RouteCounters};
use crate::table::ServerName;

/// Backends tried for one connection before it is given up.
const MAX_ATTEMPTS: usize = 3;
/// How long a client that was sent an alert may take to read it.
const ALERT_LINGER: Duration = Duration::from_secs(1);

/// TLS alert descriptions (RFC 8446 section 6).
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Alert {
    DecodeError = 50,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Alert {
    /// A fatal alert as a TLS record.
    fn record(self) -> [u8; 7] {
        const CONTENT_TYPE_ALERT: u8 = 21;
        const FATAL: u8 = 2;
        [CONTENT_TYPE_ALERT, 3, 3, 0, 2, FATAL, self as u8]
    }
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, listener: SocketAddr, mut client: TcpStream, peer: SocketAddr) {
    shared.counters.accepted.fetch_add(1, Relaxed);
    let refuse = |refusal| shared.counters.refused.add(refusal);
    let Some(live) = shared.table.load().listeners.get(&listener).cloned() else {
        refuse(Refusal::ListenerGone);
        return reset(&client);
    };
    let arrived = match admit(&shared, &live, &mut client, peer).await {
        Ok(arrived) => arrived,
        Err(refusal) => {
            refuse(refusal);
            return reset(&client);
        }
    };
    match &live.target {
        Target::Tcp(route) => {
            if proxy(&shared, route, &mut client, Vec::new(), &arrived, None).await.is_err() {
                reset(&client);
            }
        }
        Target::Sni(names) => {
            let mut hello = Assembler::new(shared.config.hello_limit);
            match find_route(&shared, names, &mut client, &mut hello, &arrived.permit).await {
                Ok((route, name)) => {
                    if proxy(&shared, route, &mut client, hello.into_raw(), &arrived, Some(&name)).await.is_err() {
                        say(client, Alert::InternalError).await;
                    }
                }
                Err((refusal, alert)) => {
                    refuse(refusal);
                    match alert {
                        Some(alert) => say(client, alert).await,
                        None => reset(&client),
                    }
                }
            }
        }
    }
}

/// An admitted connection, and who it comes from.
struct Arrived {
    permit: Permit,
    origin: Origin,
    source: Source,
}

/// Admits a connection for its source, which a trusted proxy in front has to say first.
async fn admit(
    shared: &Shared,
    listener: &LiveListener,
    client: &mut TcpStream,
    peer: SocketAddr,
) -> Result<Arrived, Refusal> {
    let mut permit = shared.admission.admit()?;
    let behind = listener.proxies.as_deref().is_some_and(|proxies| arrival::is_trusted(proxies, peer.ip()));
    let origin = if behind {
        let half_open = permit.half_open()?;
        let limit = shared.config.hello_timeout;
        let told = in_time(shared, &half_open, limit, Origin::told_by_proxy(client, peer)).await;
        told.map_err(|late| late.or(Refusal::ProxyHeaderTimeout))??
    } else {
        Origin::direct(peer)
    };
    let source = permit.come_from(origin.client.ip())?;
    Ok(Arrived { permit, origin, source })
}

/// Why something half-open was given up.
enum Late {
    /// It took too long.
    Deadline,
    /// It had to make room for a newer one, or the ingress ends.
    Cut,
}

impl Late {
    /// The reason as it is counted.
    const fn or(&self, deadline: Refusal) -> Refusal {
        match self {
            Self::Deadline => deadline,
            Self::Cut => Refusal::HalfOpenLimit,
        }
    }
}

/// What `work` says, if it says it in time and nothing else ends it.
async fn in_time<T>(
    shared: &Shared,
    half_open: &HalfOpen<'_>,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, Late> {
    let work = half_open.make_room.run_until_cancelled(timeout(limit, work));
    match shared.cut_all.run_until_cancelled(work).await.flatten() {
        Some(Ok(said)) => Ok(said),
        Some(Err(_)) => Err(Late::Deadline),
        None => Err(Late::Cut),
    }
}

/// Reads the ClientHello and answers the route it asks for, or the refusal and the alert to send.
async fn find_route<'n>(
    shared: &Shared,
    names: &'n HashMap<ServerName, Arc<LiveRoute>>,
    client: &mut TcpStream,
    hello: &mut Assembler,
    permit: &Permit,
) -> Result<(&'n LiveRoute, ServerName), (Refusal, Option<Alert>)> {
    let half_open = permit.half_open().map_err(|refusal| (refusal, None))?;
    let read = in_time(shared, &half_open, shared.config.hello_timeout, read_hello(client, hello)).await;
    let name = read.map_err(|late| (late.or(Refusal::HelloTimeout), None))??;
    let name = name.ok_or((Refusal::NameMissing, Some(Alert::UnrecognizedName)))?;
    let route = names.get(&name).ok_or((Refusal::NameUnknown, Some(Alert::UnrecognizedName)))?;
    Ok((&**route, name))
}

/// Reads until the ClientHello is whole and answers its server name, or the refusal and the alert to send.
async fn read_hello(
    client: &mut TcpStream,
    hello: &mut Assembler,
) -> Result<Option<ServerName>, (Refusal, Option<Alert>)> {
    let cut = (Refusal::HelloCut, None);
    loop {
        client.readable().await.map_err(|_| cut)?;
        let step = crate::pump::with_buffer(|buffer| match client.try_read(buffer) {
            Ok(0) => Err(cut),
            Ok(bytes) => hello.push(&buffer[..bytes]).map_err(|error| match error {
                HelloError::TooLarge => (Refusal::HelloTooLarge, Some(Alert::DecodeError)),
                _ => (Refusal::HelloMalformed, Some(Alert::DecodeError)),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(cut),
        });
        if let Some(hello) = step? {
            return Ok(hello.server_name);
        }
    }
}

/// The route did not take the connection; nothing was sent to the client yet.
struct NotServed;

/// A place among a route's connections.
struct Place<'a>(&'a RouteCounters);

impl<'a> Place<'a> {
    fn take(route: &'a LiveRoute) -> Option<Self> {
        let counters = &*route.counters;
        let before = counters.active.fetch_add(1, Relaxed);
        let place = Self(counters);
        let limit = route.limits.max_connections;
        limit.is_none_or(|limit| before < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// Connects the client to a backend of the route and moves bytes until both sides are done.
async fn proxy(
    shared: &Shared,
    route: &LiveRoute,
    client: &mut TcpStream,
    head: Vec<u8>,
    arrived: &Arrived,
    name: Option<&ServerName>,
) -> Result<(), NotServed> {
    let counters = &*route.counters;
    counters.accepted.fetch_add(1, Relaxed);
    let refuse = |refusal| {
        counters.refused.add(refusal);
        NotServed
    };
    let _place = Place::take(route).ok_or_else(|| refuse(Refusal::RouteLimit))?;
    let _in_app = route.app.as_ref().map(|app| app.enter(arrived.source)).transpose().map_err(refuse)?;
    let (mut backend, entered, cut) = connect(shared, route, client, arrived, name).await.map_err(refuse)?;

    let splice_after = shared.config.splice_after;
    let (bytes_in, bytes_out) = (&counters.bytes_in, &counters.bytes_out);
    let mut pump = Pump::new(client, &mut backend, head, splice_after, bytes_in, bytes_out);
    let ended = {
        let mut cut = pin!(cut.cancelled());
        let mut idle = pin!(route.limits.idle_timeout.map(Idle::new));
        poll_fn(|cx| {
            if let Poll::Ready(ended) = pump.poll(cx) {
                return Poll::Ready(ended);
            }
            let idle = idle.as_mut().as_pin_mut();
            if cut.as_mut().poll(cx).is_ready() || idle.is_some_and(|idle| idle.poll(cx, pump.moved()).is_ready()) {
                return Poll::Ready(Err(Broken));
            }
            Poll::Pending
        })
        .await
    };
    drop(pump);
    if ended.is_err() {
        counters.cut.fetch_add(1, Relaxed);
        reset(client);
        reset(&backend);
    }
    drop(entered);
    Ok(())
}

/// Connects to a backend of the route, trying others when one fails, and tells it who comes if it wants to know.
async fn connect(
    shared: &Shared,
    route: &LiveRoute,
    client: &TcpStream,
    arrived: &Arrived,
    name: Option<&ServerName>,
) -> Result<(TcpStream, Entered, tokio_util::sync::CancellationToken), Refusal> {
    let mut tried: Vec<String> = Vec::new();
    while tried.len() < MAX_ATTEMPTS {
        // By the table of now: while a hello was read or a connect failed, backends may have begun to drain.
        let Some(now) = shared.table.load().routes.get(&route.id).cloned() else {
            break;
        };
        let Some(backend) = now.choose(&tried) else {
            break;
        };
        // Counted before the connect, so that a drain sees the connection from its first packet on. One that began since
        // the choice may have seen no connection: then there is another table, and another choice.
        let (entered, cut) = backend.connections.enter();
        if !shared.table.load().routes.get(&route.id).is_some_and(|again| Arc::ptr_eq(again, &now)) {
            continue;
        }
        let attempt = async {
            let mut stream = open(shared, backend.addr).await?;
            if backend.proxy_protocol {
                // Far smaller than an empty send buffer: it goes out at once and whole.
                stream.write_all(&arrived.origin.header(client, name)?).await?;
            }
            io::Result::Ok(stream)
        };
        match timeout(shared.config.connect_timeout, attempt).await {
            Ok(Ok(stream)) => return Ok((stream, entered, cut)),
            Ok(Err(_)) | Err(_) => {
                route.counters.connect_failures.fetch_add(1, Relaxed);
                backend.suspect(shared.config.suspect_for);
                tried.push(backend.id.clone());
            }
        }
    }
    Err(if tried.is_empty() { Refusal::NoBackend } else { Refusal::ConnectFailed })
}

async fn open(shared: &Shared, addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    listen::tune_backend(&socket, shared.config.peer_options())?;
    socket.connect(addr).await
}

/// Ends a connection on which no byte moved for a while.
struct Idle {
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
    seen: u64,
    since: Instant,
}

impl Idle {
    fn new(limit: Duration) -> Self {
        let since = Instant::now();
        Self { limit, sleep: Box::pin(sleep_until(since + limit)), seen: 0, since }
    }

    /// Ready once `moved` has not changed for the limit. The timer is set again only when it fires, not per byte.
    fn poll(self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, moved: u64) -> Poll<()> {
        let this = self.get_mut();
        if this.seen != moved {
            (this.seen, this.since) = (moved, Instant::now());
        }
        while this.sleep.as_mut().poll(cx).is_ready() {
            let end = this.since + this.limit;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            this.sleep.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// Makes the close of the socket a reset, so that the peer sees a broken connection and not a clean end.
fn reset(stream: &TcpStream) {
    // Fails only on a socket that is gone already.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// Sends an alert and closes, leaving the client time to read it: closing with unread bytes would reset at once.
async fn say(mut client: TcpStream, alert: Alert) {
    let farewell = async {
        client.write_all(&alert.record()).await?;
        client.shutdown().await?;
        let mut unread = [0; 256];
        while client.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client read it is its own matter.
    let _ = timeout(ALERT_LINGER, farewell).await;
}
