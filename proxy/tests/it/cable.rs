//! What lies between a proxy and an afslet, and can be cut or go silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// A TCP relay to one address.
pub(crate) struct Cable {
    pub(crate) at: SocketAddr,
    connections: Arc<Mutex<JoinSet<()>>>,
    accepting: AbortHandle,
    silent: watch::Sender<bool>,
}

impl Cable {
    pub(crate) async fn to(far: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let silent = watch::Sender::new(false);
        let (set, silence) = (Arc::clone(&connections), silent.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                set.lock()
                    .unwrap()
                    .spawn(relay(near, far, silence.subscribe()));
            }
        });
        Self {
            at,
            connections,
            accepting: accepting.abort_handle(),
            silent,
        }
    }

    /// Every connection breaks, as when the process at its end is killed; new ones are made.
    pub(crate) fn tear(&self) {
        *self.connections.lock().unwrap() = JoinSet::new();
    }

    /// And no new ones are made.
    pub(crate) fn cut(&self) {
        self.accepting.abort();
        self.tear();
    }

    /// Nothing gets through any more, and nobody is told.
    pub(crate) fn silence(&self) {
        self.silent.send_replace(true);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
    }
}

async fn relay(mut near: TcpStream, far: SocketAddr, mut silent: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(far).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let silenced = silent.wait_for(|silent| *silent);
    let is_silent = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        _ = silenced => true,
    };
    if is_silent {
        // Open, and nothing comes of it.
        std::future::pending::<()>().await;
    }
}
