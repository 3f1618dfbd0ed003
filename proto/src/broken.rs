//! Whether a client's messages ended, or the client broke off.
//!
//! `tonic::Streaming` says `None` for both when the stream was reset with `CANCEL` (RFC 9113, 7): whoever acts at the end
//! of the messages would act for a client that is gone, on half of what it meant to send. The request's body knows better.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::{Bytes, Service, http};
use tonic::server::NamedService;
use tonic::{Extensions, Status};

/// Set once a request's body has failed; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Broken(Arc<AtomicBool>);

impl Broken {
    /// Whether the client broke off. To be asked after its messages have ended.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// What [`Watched`] put beside a request; of one that did not come through it, never set.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }
}

/// The same body, and what tells whether it broke off.
#[must_use]
pub fn watch(body: Body) -> (Body, Broken) {
    let broken = Broken::default();
    let watching = Watching {
        body,
        broken: broken.clone(),
    };
    (Body::new(watching), broken)
}

struct Watching {
    body: Body,
    broken: Broken,
}

impl http_body::Body for Watching {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.broken.0.store(true, Ordering::Release);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A service whose requests have a [`Broken`] among their extensions.
#[derive(Debug, Clone)]
pub struct Watched<S>(pub S);

impl<S: NamedService> NamedService for Watched<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Watched<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let (mut parts, body) = request.into_parts();
        let (body, broken) = watch(body);
        parts.extensions.insert(broken);
        self.0.call(http::Request::from_parts(parts, body))
    }
}
