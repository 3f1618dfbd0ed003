//! Certificates, and their authority, are replaced while nodes pull, mount and read.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lamina_proto::layerstore::v1::HasLayerRequest;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::nodes::{Cluster, NODE, Shape, node_names};
use super::readers::Readers;
use super::{READERS, turn};
use crate::authority::Authority;
use crate::machine::wait_until;

const DISCOVERY_NAMES: [&str; 1] = ["discovery.lamina.internal"];

#[test]
fn nothing_fails_while_certificates_and_their_authority_are_renewed() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let is_over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_ever_new_images(&cluster, &is_over));
        let over = Over(&is_over);
        renew(&cluster);
        drop(over);
        reading.join().unwrap()
    });
    assert!(rounds > 2, "{rounds}");
}

/// Says that it is over, also after a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Images that nobody has: pulled by one node, mounted and read by others. Gives how many.
fn read_ever_new_images(cluster: &Cluster, is_over: &AtomicBool) -> usize {
    let mut rounds = 0;
    // The last one begins when all is over.
    for last in [false, true] {
        loop {
            let tag = format!("t{rounds}");
            let image = cluster.registry.push(&tag, 2, 512 << 10);
            let from = rounds % 8;
            cluster.nodes[from].pull(&image);
            let others = [1, 3, 5, 7].map(|distance| (from + distance) % 8);
            let mounted = cluster.publish(&others, &tag, &image);
            Readers::start(READERS, &mounted, &image.files, rounds as u64).end();
            cluster.fetched(&others);
            for node in others {
                cluster.nodes[node].unpublish(&tag);
            }
            rounds += 1;
            if last || is_over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    rounds
}

/// Both authorities are believed, then the new one certifies, then it alone is believed.
fn renew(cluster: &Cluster) {
    let (old, new) = (&cluster.authority, Authority::new());
    let stranger = cluster.dir.path().join("client");
    std::fs::create_dir(&stranger).unwrap();
    let both = [old.pem.as_str(), &new.pem].concat();
    for name in names(cluster) {
        replace(&cluster.dir.path().join(name), &both);
    }
    // Shows the new one's certificate, believes both.
    new.issue_believing(&stranger, &node_names("client"), &both);
    wait_for_all(cluster, &stranger, true);
    for name in names(cluster) {
        let dir = cluster.dir.path().join(&name);
        match name.starts_with("node") {
            true => new.issue_believing(&dir, &node_names(&name), &both),
            false => new.issue_believing(&dir, &DISCOVERY_NAMES, &both),
        }
    }
    // Believes the new one alone.
    replace(&stranger, &new.pem);
    wait_for_all(cluster, &stranger, true);
    for name in names(cluster) {
        replace(&cluster.dir.path().join(name), &new.pem);
    }
    // Shows the old one's certificate.
    old.issue_believing(&stranger, &node_names("client"), &new.pem);
    wait_for_all(cluster, &stranger, false);
}

fn names(cluster: &Cluster) -> Vec<String> {
    let nodes = cluster.nodes.iter().map(|node| node.name.clone());
    let discoveries = (0..2).map(|number| format!("discovery-{number}"));
    nodes.chain(discoveries).collect()
}

/// As a Secret's volume does it: never half a file.
fn replace(dir: &Path, authorities: &str) {
    let path = dir.join("ca.new");
    std::fs::write(&path, authorities).unwrap();
    std::fs::rename(path, dir.join("ca.crt")).unwrap();
}

/// Until every server serves this client, or none does.
fn wait_for_all(cluster: &Cluster, client: &Path, is_served: bool) {
    let nodes = cluster
        .nodes
        .iter()
        .map(|node| (node.place.at(NODE), "node.lamina.internal"));
    let discoveries = cluster
        .discoveries
        .iter()
        .map(|one| (one.at(), DISCOVERY_NAMES[0]));
    for (at, name) in nodes.chain(discoveries) {
        let is = || {
            let client = client.to_owned();
            let asking = move || asks(at, name, &client);
            cluster.registry.place.inside(asking) == is_served
        };
        assert!(wait_until(is), "{at} {name} {is_served}");
    }
}

/// Whether a server answers this client, whatever it says.
fn asks(at: SocketAddr, name: &str, client: &Path) -> bool {
    let read = |name: &str| std::fs::read(client.join(name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(Identity::from_pem(read("tls.crt"), read("tls.key")))
        .domain_name(name);
    // On this thread, for it is where the client is.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("https://{at}")).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap();
        let endpoint = endpoint.timeout(Duration::from_secs(5));
        let Ok(channel) = endpoint.connect().await else {
            return false;
        };
        let digest = format!("sha256:{}", "0".repeat(64));
        let mut client = LayerStoreClient::new(channel);
        match client.has_layer(HasLayerRequest { digest }).await {
            Ok(_) => true,
            Err(status) => status.code() == Code::Unimplemented,
        }
    })
}
