//! The ingress as its caller sees it: always there, whatever becomes of the process.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use super::link::{Found, Heard, Link, is_known};
use super::own;
use super::serve::REPLACED;
use super::wire::{Answer, Ask, Said};
use crate::ingress::{ApplyReport, ShutdownReport};
use crate::stats::Stats;
use crate::table::{RoutingTable, TableError};

/// Time for a new process to open its socket.
const STARTING: Duration = Duration::from_secs(30);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(10);
/// Between two attempts to have an ingress again.
const AGAIN: Duration = Duration::from_secs(1);

/// How the process is found and started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The program, which calls [`serve`](super::serve) on that socket.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<std::ffi::OsString>,
    /// All of its environment: what its caller has in its own, it does not get.
    pub environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
}

/// A running ingress in another process. Clones are the same one. When the last clone is dropped the ingress goes on as it
/// is; a process that dies is started again with the last table.
#[derive(Debug, Clone)]
pub struct Apart {
    orders: mpsc::UnboundedSender<Order>,
    watched: Watched,
}

/// Open connections by backend, as far as they are known.
type Watched = Arc<Mutex<HashMap<String, watch::Sender<Option<usize>>>>>;

/// Who waits for a table to be served.
type Applied = oneshot::Sender<Result<ApplyReport, TableError>>;

/// What callers want of the task that holds the links.
#[derive(Debug)]
enum Order {
    Apply(RoutingTable, Applied),
    Stats(oneshot::Sender<Option<Stats>>),
    Watch(String),
    Cut(String),
    End(Duration, oneshot::Sender<ShutdownReport>),
}

impl Apart {
    /// Goes on with the ingress that runs, or starts one.
    ///
    /// # Errors
    /// When there is none and the program does not start.
    pub async fn start(launch: Launch) -> io::Result<Self> {
        let (orders, taken) = mpsc::unbounded_channel();
        let (heard, hearing) = mpsc::unbounded_channel();
        let watched = Watched::default();
        let mut keeper = Keeper {
            launch,
            links: 0,
            current: None,
            replaced: Vec::new(),
            table: None,
            applying: Vec::new(),
            counting: HashMap::new(),
            ending: None,
            counts: HashMap::new(),
            watched: Arc::clone(&watched),
            heard,
        };
        keeper.have().await?;
        keeper.find_replaced().await;
        tokio::spawn(keeper.run(taken, hearing));
        Ok(Self { orders, watched })
    }

    /// Replaces the routing table. Answers once the listeners are open or known to fail; connections stay. While the
    /// process is started again this waits.
    ///
    /// # Errors
    /// When the table is not valid, or the ingress has been shut down.
    pub async fn apply(&self, table: RoutingTable) -> Result<ApplyReport, TableError> {
        table.validate()?;
        let (tell, told) = oneshot::channel();
        self.order(Order::Apply(table, tell));
        told.await.unwrap_or(Err(TableError::ShutDown))
    }

    /// Open connections of a backend, over all routes, those being established included; `None` until the ingress has told.
    pub fn connections(&self, backend: &str) -> watch::Receiver<Option<usize>> {
        let mut watched = lock(&self.watched);
        if let Some(known) = watched.get(backend) {
            return known.subscribe();
        }
        let sender = watch::Sender::new(None);
        let receiver = sender.subscribe();
        watched.insert(backend.to_owned(), sender);
        drop(watched);
        self.order(Order::Watch(backend.to_owned()));
        receiver
    }

    /// Resets the connections a backend has now. Set it to draining first, or it gets new ones.
    pub fn close_backend(&self, backend: &str) {
        self.order(Order::Cut(backend.to_owned()));
    }

    /// All counters of the process, which begin when it does; `None` while there is none.
    pub async fn stats(&self) -> Option<Stats> {
        let (tell, told) = oneshot::channel();
        self.order(Order::Stats(tell));
        told.await.ok().flatten()
    }

    /// Closes the listeners, waits until the connections have ended by themselves or `drain` is over, cuts those that
    /// remain and ends the process.
    pub async fn shutdown(&self, drain: Duration) -> ShutdownReport {
        let (tell, told) = oneshot::channel();
        self.order(Order::End(drain, tell));
        told.await.unwrap_or(ShutdownReport { cut: 0 })
    }

    /// The task that takes orders ends with the last sender and after `End`: then whoever waits for an answer sees that.
    fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

fn lock(watched: &Watched) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<usize>>>> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the links.
struct Keeper {
    launch: Launch,
    /// Links there were so far.
    links: u64,
    current: Option<Link>,
    /// Ingresses of other program files, until their last connections have ended.
    replaced: Vec<Link>,
    /// What is to be served.
    table: Option<RoutingTable>,
    /// Who waits for a table to be served, with the number of the question once it was asked.
    applying: Vec<(Option<u64>, Applied)>,
    /// Who waits for counters, by the number of the question.
    counting: HashMap<u64, oneshot::Sender<Option<Stats>>>,
    /// Who waits for the end. Closed once it has come.
    ending: Option<oneshot::Sender<ShutdownReport>>,
    /// Open connections by backend and link.
    counts: HashMap<String, BTreeMap<u64, usize>>,
    watched: Watched,
    heard: mpsc::UnboundedSender<Heard>,
}

impl Keeper {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>, mut hearing: mpsc::UnboundedReceiver<Heard>) {
        loop {
            tokio::select! {
                // What was said before comes before what is asked now.
                biased;
                Some(heard) = hearing.recv() => {
                    if let Some(said) = heard.said {
                        self.hear(heard.link, said).await;
                    } else {
                        self.lost(heard.link).await;
                    }
                }
                order = orders.recv() => match order {
                    Some(order) => self.take(order).await,
                    None => return,
                },
                () = sleep(AGAIN), if self.current.is_none() => {}
            }
            if self.ending.as_ref().is_some_and(oneshot::Sender::is_closed) {
                return;
            }
            if self.ending.is_none()
                && self.current.is_none()
                && let Err(error) = self.have().await
            {
                tracing::error!(%error, "there is no ingress; trying again");
            }
        }
    }

    async fn take(&mut self, order: Order) {
        match order {
            Order::Apply(table, tell) => {
                self.table = Some(table);
                self.applying.push((None, tell));
                self.serve_table().await;
            }
            Order::Stats(tell) => {
                // Without a link, or on a broken one, dropping `tell` says so.
                if let Some(number) = self.ask(Ask::Stats).await {
                    self.counting.insert(number, tell);
                }
            }
            Order::Watch(backend) => {
                self.forget_unwatched().await;
                for link in self.current.iter_mut().chain(&mut self.replaced) {
                    // A link that is broken is lost in a moment, and its successor asked for everything.
                    let _ = link.ask(Ask::Watch(backend.clone())).await;
                }
            }
            Order::Cut(backend) => {
                for link in self.current.iter_mut().chain(&mut self.replaced) {
                    let _ = link.ask(Ask::Cut(backend.clone())).await;
                }
            }
            Order::End(drain, tell) => {
                for link in &mut self.replaced {
                    let _ = link.ask(Ask::End(drain)).await;
                }
                self.ending = Some(tell);
                if self.ask(Ask::End(drain)).await.is_none() {
                    self.ended(0);
                }
            }
        }
    }

    /// Asks the current ingress; `None` when there is none to ask.
    async fn ask(&mut self, ask: Ask) -> Option<u64> {
        self.current.as_mut()?.ask(ask).await.ok()
    }

    /// Has the table served, for everybody who waits for one.
    async fn serve_table(&mut self) {
        let Some(table) = self.table.clone() else { return };
        let number = self.ask(Ask::Apply(table)).await;
        for (asked, _) in &mut self.applying {
            *asked = number;
        }
    }

    async fn hear(&mut self, link: u64, said: Said) {
        let is_current = self.current.as_ref().is_some_and(|current| current.number == link);
        match said {
            Said::Open { backend, connections } => {
                self.counts.entry(backend.clone()).or_default().insert(link, connections);
                self.publish(&backend);
            }
            Said::Answer { number, answer } if is_current => match answer {
                Answer::Applied(report) => {
                    self.served(number, &Ok(report));
                    // Its successor accepts now: what waits in the sockets that both have is in good hands.
                    for link in &mut self.replaced {
                        let _ = link.ask(Ask::End(REPLACED)).await;
                    }
                }
                // Valid here and not there: it was shut down under us.
                Answer::Refused(why) => {
                    tracing::error!(%why, "the ingress refused the table");
                    self.served(number, &Err(TableError::ShutDown));
                }
                Answer::Stats(stats) => {
                    if let Some(waits) = self.counting.remove(&number) {
                        let _ = waits.send(Some(stats));
                    }
                }
                Answer::Ended { cut } => self.ended(cut),
                Answer::Listeners(_) | Answer::Ready | Answer::Taken => {}
            },
            Said::Answer { .. } | Said::Welcome { .. } => {}
        }
    }

    fn served(&mut self, number: u64, result: &Result<ApplyReport, TableError>) {
        for (asked, waits) in std::mem::take(&mut self.applying) {
            match asked {
                Some(asked) if asked <= number => {
                    let _ = waits.send(result.clone());
                }
                _ => self.applying.push((asked, waits)),
            }
        }
    }

    fn ended(&mut self, cut: usize) {
        self.current = None;
        // The sender that takes its place is closed from the beginning.
        if let Some(waits) = self.ending.replace(oneshot::channel().0) {
            let _ = waits.send(ShutdownReport { cut });
        }
    }

    /// A link is broken, so its process has died, and its connections with it.
    async fn lost(&mut self, link: u64) {
        self.replaced.retain(|replaced| replaced.number != link);
        let counted = self.counts.iter_mut().filter_map(|(backend, of_links)| of_links.remove(&link).map(|_| backend));
        let counted: Vec<String> = counted.cloned().collect();
        if let Some(current) = self.current.take_if(|current| current.number == link) {
            self.counting.clear();
            if self.ending.is_some() {
                self.ended(0);
            } else {
                let pid = current.pid.as_raw_nonzero();
                tracing::error!(%pid, "the ingress died, and its connections with it; it is started again");
            }
        }
        for backend in counted {
            self.publish(&backend);
        }
    }

    /// Tells those who wait for a backend's connections.
    fn publish(&mut self, backend: &str) {
        let Some(of_links) = self.counts.get(backend) else { return };
        // Known when every ingress that there is has told.
        let links = usize::from(self.current.is_some()) + self.replaced.len();
        let open = (of_links.len() >= links).then(|| of_links.values().sum());
        if let Some(waits) = lock(&self.watched).get(backend) {
            waits.send_if_modified(|known| {
                let differs = *known != open;
                *known = open;
                differs
            });
        }
    }

    /// Backends that nobody waits for any more.
    async fn forget_unwatched(&mut self) {
        let mut unwatched = Vec::new();
        lock(&self.watched).retain(|backend, waits| {
            let is_watched = waits.receiver_count() > 0;
            if !is_watched {
                unwatched.push(backend.clone());
            }
            is_watched
        });
        for backend in unwatched {
            self.counts.remove(&backend);
            for link in self.current.iter_mut().chain(&mut self.replaced) {
                let _ = link.ask(Ask::Forget(backend.clone())).await;
            }
        }
    }

    /// Finds the running ingress, replaces one of another program, or starts one; then has it do everything that is wanted.
    async fn have(&mut self) -> io::Result<()> {
        let found = match Found::at(&self.launch.socket).await {
            Ok(found) => self.checked(found).await,
            Err(_) => None,
        };
        let found = match found {
            Some(found) if found.is_of_this_program() => found,
            Some(found) => self.replaced(found).await?,
            None => self.started().await?,
        };
        self.links += 1;
        self.current = Some(found.link(self.links, self.heard.clone()));
        self.serve_table().await;
        let watched: Vec<String> = lock(&self.watched).keys().cloned().collect();
        for backend in watched {
            for link in self.current.iter_mut().chain(&mut self.replaced) {
                let _ = link.ask(Ask::Watch(backend.clone())).await;
            }
        }
        Ok(())
    }

    /// Finds ingresses that were replaced under an earlier caller and have connections yet: they are counted and cut too.
    async fn find_replaced(&mut self) {
        let known: Vec<_> = self.current.iter().chain(&self.replaced).map(|link| link.pid).collect();
        for socket in own::names(&self.launch.socket) {
            let mut found = match Found::at(&socket).await {
                Ok(found) if known.contains(&found.pid()) => continue,
                Ok(found) => found,
                Err(error) => {
                    if error.kind() == io::ErrorKind::ConnectionRefused {
                        // Its process was killed. One that ends has removed it itself.
                        let _ = std::fs::remove_file(&socket);
                    }
                    continue;
                }
            };
            match found.greeted().await {
                Ok(protocol) if is_known(protocol) => {
                    self.links += 1;
                    self.replaced.push(found.link(self.links, self.heard.clone()));
                }
                answer => {
                    let pid = found.pid().as_raw_nonzero();
                    tracing::warn!(%pid, ?answer, "the connections of an ingress that was replaced are not counted");
                }
            }
        }
    }

    /// Starts this program's ingress in the place of another one's, with the listening sockets of that, if it gives them.
    async fn replaced(&mut self, old: Found) -> io::Result<Found> {
        let pid = old.pid();
        tracing::info!(pid = %pid.as_raw_nonzero(), "replacing the ingress of another program file");
        let listening = match self.second().await {
            Ok(second) => second.hand_over().await,
            Err(error) => Err(error),
        };
        let listening = match listening {
            Ok(listening) => listening,
            Err(error) => {
                tracing::warn!(%error, "the old ingress does not give its sockets; it is ended");
                old.kill();
                return self.started().await;
            }
        };
        // It is told to end when its successor serves the table.
        self.links += 1;
        self.replaced.push(old.link(self.links, self.heard.clone()));
        let found = self.started().await?;
        self.second().await?.take_over(listening).await?;
        Ok(found)
    }

    /// Another connection to the ingress that answers now, for what is passed on a connection of its own.
    async fn second(&self) -> io::Result<Found> {
        let mut found = Found::at(&self.launch.socket).await?;
        found.greeted().await?;
        Ok(found)
    }

    /// The ingress that was found, if it is in its right mind. One that is not is ended.
    async fn checked(&self, mut found: Found) -> Option<Found> {
        match found.greeted().await {
            Ok(protocol) if is_known(protocol) || !found.is_of_this_program() => Some(found),
            Ok(protocol) => {
                tracing::warn!(protocol, "the ingress speaks another protocol");
                found.kill();
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the ingress that runs does not answer; it is ended");
                found.kill();
                None
            }
        }
    }

    /// Starts the program and waits until it answers.
    async fn started(&self) -> io::Result<Found> {
        let mut command = Command::new(&self.launch.program);
        // It talks to the whole world: credentials that its caller was given are not for it.
        command.env_clear().envs(self.launch.environment.iter().map(|(name, value)| (name, value)));
        // A process group of its own: a terminal's Ctrl-C is for its caller, who decides.
        command.args(&self.launch.arguments).stdin(std::process::Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + STARTING;
        let found = loop {
            if let Some(status) = child.try_wait()? {
                return Err(io::Error::other(format!("the ingress ended with {status}")));
            }
            match Found::at(&self.launch.socket).await {
                // Another one may still have the socket, and be about to die.
                Ok(mut found) if child.id().is_some_and(|id| id == found.pid().as_raw_pid().cast_unsigned()) => {
                    found.greeted().await?;
                    break found;
                }
                _ if Instant::now() > deadline => {
                    child.start_kill()?;
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the ingress does not open its socket"));
                }
                _ => sleep(LOOK).await,
            }
        };
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::info!(%status, "an ingress ended");
            }
        });
        Ok(found)
    }
}
