//! Log lines of an app: those of its instances, merged by time, and followed as instances come and go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;
use holm_agent::AgentHandle;
use holm_api::backend::LogStream;
use holm_api::problem::Problem;
use holm_api::wire::{LogLine, LogQuery};
use holm_control::Control;
use holm_model::id::InstanceName;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Lines that wait for a slow reader before the readers of the logs wait too.
const QUEUE: usize = 64;

/// Past lines that are merged at most when the query names no number.
const MOST_PAST: usize = 10_000;

/// The lines that fit `query`: first the past, in order of time, then what follows.
pub(super) fn stream(control: Control, agent: Arc<AgentHandle>, query: LogQuery) -> Result<LogStream, Problem> {
    if !control.state().apps.contains_key(&query.app) {
        return Err(Problem::not_found(format!("there is no app `{}`", query.app)).hint("`holm status` lists the apps"));
    }
    if let Some(instance) = &query.instance
        && !control.state().instances.contains_key(instance)
    {
        return Err(Problem::not_found(format!("there is no instance `{instance}`"))
            .hint("`holm ps` lists the instances, also those that ended lately"));
    }
    let (lines, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        // An error: the reader has gone away.
        let _ = Reading { control, agent, query, lines }.run().await;
    });
    Ok(ReceiverStream::new(receiver).boxed())
}

/// The reader went away.
struct Gone;

struct Reading {
    control: Control,
    agent: Arc<AgentHandle>,
    query: LogQuery,
    lines: mpsc::Sender<Result<LogLine, Problem>>,
}

impl Reading {
    async fn run(self) -> Result<(), Gone> {
        let known = self.instances();
        let mut past = Vec::new();
        let mut followed = HashMap::new();
        for instance in known {
            let lines = self.past_of(&instance).await;
            // What follows begins right after the last line that was seen here.
            let after = lines.last().map(|line: &LogLine| line.at + SignedDuration::from_nanos(1));
            followed.insert(instance, after.or(self.query.since));
            past.extend(lines);
        }
        past.sort_by_key(|line| line.at);
        let newest = self.query.newest.map_or(MOST_PAST, |n| usize::try_from(n).unwrap_or(MOST_PAST));
        let skip = past.len().saturating_sub(newest);
        for line in past.drain(..).skip(skip) {
            self.lines.send(Ok(line)).await.map_err(|_| Gone)?;
        }
        if self.query.follow { self.follow(followed).await } else { Ok(()) }
    }

    /// The instances whose lines are wanted.
    fn instances(&self) -> HashSet<InstanceName> {
        let state = self.control.state();
        let wanted = |name: &&InstanceName| {
            self.query.process.as_ref().is_none_or(|process| name.process == *process)
                && self.query.instance.as_ref().is_none_or(|instance| *name == instance)
        };
        state.instances_of(&self.query.app).map(|(name, _)| name).filter(wanted).cloned().collect()
    }

    async fn past_of(&self, instance: &InstanceName) -> Vec<LogLine> {
        let tail = self.query.newest.map_or(MOST_PAST, |n| usize::try_from(n).unwrap_or(MOST_PAST));
        let query = holm_agent::LogQuery { since: self.query.since, tail: Some(tail), follow: false };
        let mut lines = Vec::new();
        // An instance that has written nothing yet, or whose folder is gone, has no lines.
        let Ok(mut reader) = self.agent.logs(instance, query) else { return lines };
        while let Ok(Some(line)) = reader.next().await {
            lines.push(to_line(instance, &line));
        }
        lines
    }

    /// Passes on new lines of `known` instances and of those that come later, until the reader goes away.
    async fn follow(self, known: HashMap<InstanceName, Option<Timestamp>>) -> Result<(), Gone> {
        let reading = Arc::new(self);
        let mut changes = reading.control.changes();
        let mut tasks = tokio::task::JoinSet::new();
        let mut seen: HashSet<InstanceName> = known.keys().cloned().collect();
        for (instance, since) in known {
            tasks.spawn(Arc::clone(&reading).follow_one(instance, since));
        }
        loop {
            tokio::select! {
                () = reading.lines.closed() => return Err(Gone),
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
            }
            for instance in reading.instances() {
                if seen.insert(instance.clone()) {
                    tasks.spawn(Arc::clone(&reading).follow_one(instance, None));
                }
            }
        }
    }

    async fn follow_one(self: Arc<Self>, instance: InstanceName, since: Option<Timestamp>) {
        let query = holm_agent::LogQuery { since, tail: None, follow: true };
        let mut reports = self.agent.reports();
        let mut reader = loop {
            match self.agent.logs(&instance, query) {
                Ok(reader) => break reader,
                // The agent has not made its folder yet: its next report will show the instance.
                Err(_) if reports.changed().await.is_err() => return,
                Err(_) => {}
            }
        };
        loop {
            let next = match reader.next().await {
                Ok(Some(line)) => Ok(to_line(&instance, &line)),
                Ok(None) => return,
                Err(error) => Err(Problem::failed(format!("cannot read the log of {instance}")).because(error)),
            };
            let ended = next.is_err();
            if self.lines.send(next).await.is_err() || ended {
                return;
            }
        }
    }
}

fn to_line(instance: &InstanceName, line: &holm_agent::LogLine) -> LogLine {
    LogLine {
        at: line.at,
        instance: instance.clone(),
        stream: match line.stream {
            holm_agent::LogStream::Stdout => holm_api::wire::LogStream::Stdout,
            holm_agent::LogStream::Stderr => holm_api::wire::LogStream::Stderr,
            holm_agent::LogStream::Holm => holm_api::wire::LogStream::Holm,
        },
        text: String::from_utf8_lossy(&line.text).into_owned(),
    }
}
