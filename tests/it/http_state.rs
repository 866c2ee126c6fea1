//! A server for Terraform's `http` backend, with locking: as GitLab's and others have it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::servers::serve;

/// States by their path, each with a lock.
#[derive(Debug)]
pub(crate) struct HttpStates {
    url: String,
    states: Arc<Mutex<HashMap<String, HttpState>>>,
}

/// A state, and what was seen of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HttpState {
    body: Option<String>,
    /// The record of whoever has the lock.
    pub(crate) lock: Option<Value>,
    /// The operations of those that got the lock, in order.
    pub(crate) got: Vec<String>,
    /// How often it was refused.
    pub(crate) refused: usize,
    /// How often the state was written, and how often by somebody who had not the lock.
    pub(crate) writes: [usize; 2],
}

impl HttpStates {
    pub(crate) fn start() -> Self {
        let states = Arc::<Mutex<HashMap<String, HttpState>>>::default();
        let theirs = Arc::clone(&states);
        let address = serve(|listener| async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let states = Arc::clone(&theirs);
                // A client that goes away in the middle is no failure of the server.
                tokio::spawn(async move { drop(answer(connection, &states).await) });
            }
        });
        Self { url: format!("http://{address}"), states }
    }

    /// The backend block of a state; without its lock if that is said.
    pub(crate) fn block(&self, name: &str, locks: bool) -> String {
        let at = format!("{}/{name}", self.url);
        let lock = format!("    lock_address   = \"{at}\"\n    unlock_address = \"{at}\"\n");
        let lock = if locks { lock } else { String::new() };
        format!("terraform {{\n  backend \"http\" {{\n    address = \"{at}\"\n{lock}  }}\n}}\n")
    }

    pub(crate) fn state(&self, name: &str) -> HttpState {
        let states = self.states.lock().unwrap();
        states.get(&format!("/{name}")).cloned().unwrap_or_default()
    }
}

async fn answer(
    mut connection: TcpStream,
    states: &Mutex<HashMap<String, HttpState>>,
) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    let (head, body) = loop {
        if connection.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if body.len() >= length.map_or(0, |(_, value)| value.parse().unwrap()) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (code, reply) = {
        let mut states = states.lock().unwrap();
        act(states.entry(path.to_owned()).or_default(), method, query, body)
    };
    let length = reply.len();
    let reply = format!(
        "HTTP/1.1 {code} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{reply}"
    );
    connection.write_all(reply.as_bytes()).await?;
    connection.shutdown().await
}

fn act(state: &mut HttpState, method: &str, query: &str, body: String) -> (u16, String) {
    let held_by = state.lock.as_ref().and_then(|lock| Some(lock["ID"].as_str()?.to_owned()));
    match (method, held_by) {
        ("GET", _) => state.body.clone().map_or((404, String::new()), |body| (200, body)),
        ("POST", holder) => {
            let by = query.split('&').find_map(|pair| pair.strip_prefix("ID="));
            let has_it = by.is_some() && by == holder.as_deref();
            state.writes[usize::from(!has_it)] += 1;
            state.body = Some(body);
            (200, String::new())
        }
        ("LOCK", Some(_)) => {
            state.refused += 1;
            (423, state.lock.as_ref().unwrap().to_string())
        }
        ("LOCK", None) => {
            let record: Value = serde_json::from_str(&body).unwrap();
            state.got.push(record["Operation"].as_str().unwrap().to_owned());
            state.lock = Some(record);
            (200, String::new())
        }
        ("UNLOCK", Some(holder)) => {
            // `force-unlock` says nothing of whose it is.
            let record: Value = serde_json::from_str(&body).unwrap_or_default();
            if !record.is_null() && record["ID"] != *holder {
                return (409, state.lock.as_ref().unwrap().to_string());
            }
            state.lock = None;
            (200, String::new())
        }
        ("UNLOCK", None) => (200, String::new()),
        _ => (405, String::new()),
    }
}
