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
    writes: Vec<(String, Value)>,
}

impl FakeApi {
    /// What a GET of `path` gives; others are not found, writes are echoed.
    pub(crate) fn answer(&self, path: &str, body: Value) {
        self.0.lock().unwrap().answers.insert(path.to_owned(), body);
    }

    /// The last write to `path`.
    pub(crate) fn last_write(&self, path: &str) -> Value {
        let state = self.0.lock().unwrap();
        let found = state.writes.iter().rev().find(|(at, _)| at == path);
        found
            .unwrap_or_else(|| panic!("nothing written to {path}: {:?}", state.writes))
            .1
            .clone()
    }

    pub(crate) fn wrote(&self, path: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .writes
            .iter()
            .any(|(at, _)| at == path)
    }

    /// A ready pod of the node server.
    #[expect(clippy::unused_self, reason = "reads as a part of the fake")]
    pub(crate) fn pod(&self, place: &Place) -> Value {
        json!({
            "metadata": { "name": format!("lamina-node-{}", place.name) },
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
        let bytes = to_bytes(axum::body::Body::new(request.into_body()), 1 << 20)
            .await
            .unwrap();
        let mut state = self.0.lock().unwrap();
        let body = if method == Method::GET {
            state.answers.get(&path).cloned()
        } else {
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            state.writes.push((path.clone(), body.clone()));
            Some(
                state
                    .answers
                    .get(&path)
                    .cloned()
                    .unwrap_or_else(|| echoed(body)),
            )
        };
        let (code, body) = match body {
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
