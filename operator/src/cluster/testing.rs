//! An API server for tests: answers from a table, takes every write, remembers it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::to_bytes;
use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};

use crate::context::Ctx;
use crate::metrics::Metrics;
use crate::nodes::{Dial, Place};

#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    answers: BTreeMap<String, Value>,
    /// By write, what becomes the answer where.
    after: BTreeMap<String, (String, Value)>,
    writes: Vec<Write>,
    /// Writes are to what is not there.
    refuses_writes: bool,
    /// Writes are taken, and answered as if they had not been.
    loses_answers: bool,
    /// Nothing is answered.
    is_silent: bool,
    /// Of these, nothing can be made: the kind is not known.
    unknown: Vec<String>,
}

#[derive(Debug)]
struct Write {
    method: Method,
    path: String,
    body: Value,
}

impl FakeApi {
    /// What a GET of `path` gives; others are not found, writes are echoed.
    pub(crate) fn answer(&self, path: &str, body: Value) {
        self.0.lock().unwrap().answers.insert(path.to_owned(), body);
    }

    /// A GET of `path` finds nothing from now on.
    pub(crate) fn forget(&self, path: &str) {
        self.0.lock().unwrap().answers.remove(path);
    }

    /// From the write `METHOD path` on, a GET of `at` gives this.
    pub(crate) fn after(&self, write: &str, at: &str, body: Value) {
        let changed = (at.to_owned(), body);
        self.0
            .lock()
            .unwrap()
            .after
            .insert(write.to_owned(), changed);
    }

    /// Writes find nothing from now on.
    pub(crate) fn refuse_writes(&self) {
        self.0.lock().unwrap().refuses_writes = true;
    }

    /// Writes are taken, and the writer is told of a failure, or not any more.
    pub(crate) fn lose_answers(&self, loses: bool) {
        self.0.lock().unwrap().loses_answers = loses;
    }

    /// Whoever asks waits for ever from now on.
    pub(crate) fn fall_silent(&self) {
        self.0.lock().unwrap().is_silent = true;
    }

    /// A POST to this path finds nothing.
    pub(crate) fn refuse_creations(&self, path: &str) {
        self.0.lock().unwrap().unknown.push(path.to_owned());
    }

    /// Every write in its order, `METHOD path`.
    pub(crate) fn writes(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let lines = state.writes.iter().map(Write::line);
        lines.collect()
    }

    /// The last write to `path`.
    pub(crate) fn last_write(&self, path: &str) -> Value {
        let state = self.0.lock().unwrap();
        let found = state.writes.iter().rev().find(|write| write.path == path);
        found
            .unwrap_or_else(|| panic!("nothing written to {path}: {:?}", state.writes))
            .body
            .clone()
    }

    /// Every body written to `path`, in order.
    pub(crate) fn bodies(&self, path: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let found = state.writes.iter().filter(|write| write.path == path);
        found.map(|write| write.body.clone()).collect()
    }

    pub(crate) fn wrote(&self, path: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .writes
            .iter()
            .any(|write| write.path == path)
    }

    /// A ready pod of the node server.
    #[expect(clippy::unused_self, reason = "reads as a part of the fake")]
    pub(crate) fn pod(&self, place: &Place) -> Value {
        json!({
            "metadata": {
                "name": format!("lamina-node-{}", place.name),
                "labels": { "app.kubernetes.io/name": "lamina", "app.kubernetes.io/component": "node" },
            },
            "spec": { "nodeName": place.name, "containers": [] },
            // The fake node's port stands in the address; the real one's is a constant.
            "status": { "podIP": place.address, "conditions": [{ "type": "Ready", "status": "True" }] },
        })
    }

    pub(crate) fn ctx(&self) -> Ctx {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.respond(request).await) }
        });
        let client = kube::Client::new(service, "lamina-system");
        let metrics = Metrics::new().unwrap();
        Ctx::new(
            client,
            "lamina-system".into(),
            "test".into(),
            Dial::Plain,
            metrics,
        )
    }

    async fn respond(&self, request: Request<Body>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let labels = selected(request.uri().query().unwrap_or_default());
        let bytes = to_bytes(axum::body::Body::new(request.into_body()), 1 << 20)
            .await
            .unwrap();
        if self.0.lock().unwrap().is_silent {
            std::future::pending::<()>().await;
        }
        let mut state = self.0.lock().unwrap();
        let loses = state.loses_answers && method != Method::GET;
        let body = if method == Method::GET {
            let found = state.answers.get(&path).cloned();
            found.map(|answer| narrowed(answer, &labels))
        } else {
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            state.write(Write {
                method,
                path: path.clone(),
                body,
            })
        };
        let (code, body) = match body {
            Some(_) if loses => (
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({ "kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500, "message": path }),
            ),
            Some(body) => (StatusCode::OK, body),
            None => (
                StatusCode::NOT_FOUND,
                json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": path }),
            ),
        };
        Response::builder()
            .status(code)
            .body(Body::from(body.to_string().into_bytes()))
            .unwrap()
    }
}

impl State {
    fn write(&mut self, write: Write) -> Option<Value> {
        if self.refuses_writes || self.unknown.contains(&write.path) {
            return None;
        }
        let answer = if write.method == Method::DELETE {
            self.answers.remove(&write.path);
            json!({ "kind": "Status", "status": "Success" })
        } else {
            let found = self.answers.get(&write.path).cloned();
            found.unwrap_or_else(|| echoed(write.body.clone()))
        };
        if let Some((path, body)) = self.after.get(&write.line()).cloned() {
            self.answers.insert(path, body);
        }
        self.writes.push(write);
        Some(answer)
    }
}

impl Write {
    fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// The labels a query asks for, each by equality.
fn selected(query: &str) -> Vec<(String, String)> {
    let selector = query
        .split('&')
        .find_map(|part| part.strip_prefix("labelSelector="))
        .unwrap_or_default();
    let text = selector
        .replace("%2F", "/")
        .replace("%3D", "=")
        .replace("%2C", ",");
    text.split(',')
        .filter_map(|one| one.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// A list without what has labels, but not these.
fn narrowed(mut answer: Value, labels: &[(String, String)]) -> Value {
    // A log is no object.
    let items = answer.get_mut("items").and_then(Value::as_array_mut);
    if let Some(items) = items {
        items.retain(|item| {
            let has = &item["metadata"]["labels"];
            has.is_null() || labels.iter().all(|(key, value)| has[key] == json!(value))
        });
    }
    answer
}

/// What was written, made whole enough to be read as the type it is.
fn echoed(mut body: Value) -> Value {
    let whole = json!({
        "spec": { "reference": "a", "source": {}, "image": "a", "url": "a", "containers": [], "selector": {}, "template": {} },
        "metadata": {},
    });
    for (key, value) in whole.as_object().unwrap() {
        if body.get(key).is_none() {
            body[key] = value.clone();
        }
    }
    body
}
