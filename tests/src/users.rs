//! A crowd of users on few keep-alive connections: who met which version in which order, and how. Each connection speaks
//! for many users, as a gateway's does, so that only a choice request by request can tell them apart.

use crate::connection::{Connection, KeepAlive, Question};
use crate::load::Load;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Pause of a connection between two requests: the crowd is not to fill the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// A stretch of answers of one version to one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The version.
    pub version: String,
    /// Its answers.
    pub answers: u64,
    /// Those that were 5xx.
    pub errors: u64,
}

/// What the crowd saw.
#[derive(Debug, Clone, Default)]
pub struct Met {
    /// By user: the versions met, one after the other.
    pub users: Vec<Vec<Stretch>>,
    /// Requests that got no whole answer, in words.
    pub failures: Vec<String>,
}

impl Met {
    /// The version each user met last.
    pub fn last(&self) -> Vec<&str> {
        self.users.iter().filter_map(|met| met.last()).map(|last| last.version.as_str()).collect()
    }

    fn note(&mut self, user: usize, version: &str, status: u16) {
        let stretches = &mut self.users[user];
        if stretches.last().is_none_or(|last| last.version != version) {
            stretches.push(Stretch { version: version.to_owned(), answers: 0, errors: 0 });
        }
        if let Some(last) = stretches.last_mut() {
            last.answers += 1;
            last.errors += u64::from(status >= 500);
        }
    }
}

/// A crowd at work.
pub struct Crowd {
    met: Arc<Mutex<Met>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

impl Crowd {
    /// Begins: `users` of them, named `user-0` and so on, over the load's number of connections.
    pub fn begin(load: &Load, users: usize) -> Self {
        let met = Arc::new(Mutex::new(Met { users: vec![Vec::new(); users], failures: Vec::new() }));
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for ordinal in 0..load.connections {
            let own = (ordinal..users).step_by(load.connections).collect();
            clients.spawn(speak(load.clone(), own, Arc::clone(&met), stopped.clone()));
        }
        Self { met, stop, clients }
    }

    /// What was seen so far.
    pub fn met(&self) -> Met {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it: requests under way are awaited.
    pub async fn finish(mut self) -> Met {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        self.met()
    }
}

/// One connection, for its users in turn. A connection that the server closed between two requests is replaced.
async fn speak(load: Load, own: Vec<usize>, met: Arc<Mutex<Met>>, stopped: watch::Receiver<bool>) {
    let mut held: Option<Connection> = None;
    let mut turn = 0;
    while !*stopped.borrow() {
        let user = own[turn % own.len()];
        turn += 1;
        let name = format!("user-{user}");
        let body = load.bodies[turn % load.bodies.len()].clone();
        let question = Question { load: &load, body, keep_alive: KeepAlive::Yes, user: Some(&name) };
        let outcome = ask(&mut held, &question).await;
        {
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok((version, status)) => met.note(user, &version, status),
                Err(failure) => met.failures.push(format!("{name}: {failure}")),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn ask(held: &mut Option<Connection>, question: &Question<'_>) -> Result<(String, u16), String> {
    loop {
        if let Some(connection) = held.as_mut()
            && !connection.is_open().await
        {
            *held = None;
        }
        let mut connection = match held.take() {
            Some(connection) => connection,
            None => Connection::open(question.load.address, question.load.deadline)
                .await
                .map_err(|broken| broken.detail)?,
        };
        match connection.ask(question).await {
            Ok(reply) => {
                if !reply.closing {
                    *held = Some(connection);
                }
                return Ok((reply.version, reply.status));
            }
            // Closed while the request was on its way: the server saw none, and every pool asks once more.
            Err(broken) if connection.answers() > 0 && broken.was_closed_unanswered() => {}
            Err(broken) => return Err(broken.detail),
        }
    }
}
