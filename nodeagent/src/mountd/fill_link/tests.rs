//! Tests of the fill link against agents that answer, die, lie and dawdle.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::fill::{FillFailure, FillFailureKind};
use crate::wire::{read_frame, write_frame};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    link: Arc<FillLink>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let link = FillLink::start(socket.clone()).unwrap();
        Self {
            _dir: dir,
            socket,
            link,
        }
    }

    /// An agent's listener; the one before it must be dropped.
    fn listen(&self) -> UnixListener {
        wire::listen(&self.socket).unwrap()
    }

    fn ask(&self, entries: Range<usize>, limit: Duration) -> Receiver<Result<(), FillError>> {
        let (tell, told) = channel();
        let done = Box::new(move |outcome| tell.send(outcome).unwrap());
        let deadline = Instant::now() + limit;
        self.link
            .start(&BlobId::of(b"blob"), entries, deadline, done);
        told
    }
}

fn accept(listener: &UnixListener) -> UnixStream {
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn answer(stream: &UnixStream, id: u64, outcome: Result<(), FillFailure>) {
    write_frame(stream, &FillReply { id, outcome }).unwrap();
}

#[test]
fn answers_find_their_requests_in_any_order() {
    let scene = Scene::new();
    let listener = scene.listen();
    let first = scene.ask(3..5, PATIENCE);
    let second = scene.ask(8..9, PATIENCE);
    let stream = accept(&listener);
    let mut requests: Vec<FillRequest> = (0..2).map(|_| read_frame(&stream).unwrap()).collect();
    requests.sort_by_key(|request| request.first);
    assert_eq!((requests[0].first, requests[0].count), (3, 2));
    assert_eq!(requests[0].blob, BlobId::of(b"blob"));
    assert!(requests[0].deadline_ms > 0);
    let failure = FillFailure::new(FillFailureKind::Integrity, "every source lies");
    answer(&stream, requests[1].id, Err(failure));
    let failed = second.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert!(failed.to_string().contains("every source lies"), "{failed}");
    assert!(first.try_recv().is_err(), "not answered yet");
    answer(&stream, requests[0].id, Ok(()));
    assert_eq!(first.recv_timeout(PATIENCE).unwrap(), Ok(()));
    assert_eq!(scene.link.pending(), 0);
}

#[test]
fn what_a_dead_agent_left_unanswered_is_sent_to_its_successor() {
    let scene = Scene::new();
    let listener = scene.listen();
    let answered = scene.ask(0..1, PATIENCE);
    let left: Vec<_> = (1..4).map(|at| scene.ask(at..at + 1, PATIENCE)).collect();
    let stream = accept(&listener);
    for _ in 0..4 {
        let request: FillRequest = read_frame(&stream).unwrap();
        if request.first == 0 {
            answer(&stream, request.id, Ok(()));
        }
    }
    answered.recv_timeout(PATIENCE).unwrap().unwrap();
    drop((stream, listener));
    let listener = scene.listen();
    let stream = accept(&listener);
    let mut firsts = Vec::new();
    for _ in 0..3 {
        let request: FillRequest = read_frame(&stream).unwrap();
        firsts.push(request.first);
        answer(&stream, request.id, Ok(()));
    }
    firsts.sort_unstable();
    assert_eq!(firsts, [1, 2, 3]);
    for told in left {
        told.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}

#[test]
fn without_an_agent_every_request_ends_at_its_deadline() {
    let scene = Scene::new();
    let long = scene.ask(0..1, PATIENCE);
    let short = scene.ask(1..2, Duration::from_millis(50));
    let outcome = short.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(outcome, Err(FillError::Deadline(_))),
        "{outcome:?}"
    );
    assert!(long.try_recv().is_err(), "its deadline is later");
    let listener = scene.listen();
    let stream = accept(&listener);
    let request: FillRequest = read_frame(&stream).unwrap();
    assert_eq!(request.first, 0, "the one that ended is not sent");
    answer(&stream, request.id, Ok(()));
    long.recv_timeout(PATIENCE).unwrap().unwrap();
}

#[test]
fn an_agent_that_dawdles_does_not_hold_a_request_past_its_deadline() {
    let scene = Scene::new();
    let listener = scene.listen();
    let told = scene.ask(0..1, Duration::from_millis(100));
    let stream = accept(&listener);
    let request: FillRequest = read_frame(&stream).unwrap();
    let outcome = told.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(outcome, Err(FillError::Deadline(_))),
        "{outcome:?}"
    );
    // Too late, and for something that never was: neither does harm.
    answer(&stream, request.id, Ok(()));
    answer(&stream, 12_345, Ok(()));
    let next = scene.ask(1..2, PATIENCE);
    let request: FillRequest = read_frame(&stream).unwrap();
    answer(&stream, request.id, Ok(()));
    next.recv_timeout(PATIENCE).unwrap().unwrap();
}

#[test]
fn an_agent_that_sends_garbage_is_hung_up_on_and_asked_again() {
    let scene = Scene::new();
    let listener = scene.listen();
    let told = scene.ask(0..1, PATIENCE);
    for garbage in [
        &[0xff; 64][..],
        &[2, 0, 0, 0, 99, 0],
        &[1, 0, 0, 0, wire::VERSION],
    ] {
        let stream = accept(&listener);
        let _: FillRequest = read_frame(&stream).unwrap();
        (&stream).write_all(garbage).unwrap();
        let closed: Result<FillRequest, _> = read_frame(&stream);
        closed.expect_err("hung up");
    }
    let stream = accept(&listener);
    let request: FillRequest = read_frame(&stream).unwrap();
    answer(&stream, request.id, Ok(()));
    told.recv_timeout(PATIENCE).unwrap().unwrap();
}

#[test]
fn more_requests_than_a_socket_holds_all_arrive() {
    const COUNT: usize = 10_000;
    let scene = Scene::new();
    let listener = scene.listen();
    let waiting: Vec<_> = (0..COUNT)
        .map(|at| scene.ask(at..at + 1, PATIENCE))
        .collect();
    let stream = accept(&listener);
    let mut seen = vec![false; COUNT];
    for _ in 0..COUNT {
        let request: FillRequest = read_frame(&stream).unwrap();
        assert!(!std::mem::replace(&mut seen[request.first as usize], true));
        answer(&stream, request.id, Ok(()));
    }
    for told in waiting {
        told.recv_timeout(PATIENCE).unwrap().unwrap();
    }
}

#[test]
fn a_runaway_is_refused_at_the_bound() {
    let scene = Scene::new();
    let waiting: Vec<_> = (0..PENDING_MAX)
        .map(|_| scene.ask(0..1, PATIENCE))
        .collect();
    let refused = scene.ask(0..1, PATIENCE).recv_timeout(PATIENCE).unwrap();
    assert_eq!(refused, Err(FillError::Overloaded));
    assert!(waiting.iter().all(|told| told.try_recv().is_err()));
}
