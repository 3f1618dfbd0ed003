//! Who may have commands run.

use super::support::{Afslet, execute, frame};
use crate::authority::Authority;
use crate::machine::{Machine, wait_until};
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{Network, StartRequest};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

fn connect(afslet: &Afslet, dir: &std::path::Path) -> Option<AfsletClient<Channel>> {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.crt")))
        .identity(Identity::from_pem(read("tls.crt"), read("tls.key")))
        .domain_name("afslet.lamina.internal");
    let endpoint = Endpoint::from_shared(format!("https://{}", afslet.listen)).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    let connected = afslet.runtime.block_on(endpoint.connect());
    connected.ok().map(AfsletClient::new)
}

#[test]
fn only_clients_with_the_right_certificate_run_commands() {
    let (ours, others) = (Authority::new(), Authority::new());
    let certificates = tempfile::tempdir().unwrap();
    ours.issue(certificates.path(), &["afslet.lamina.internal"]);
    let dir = certificates.path().to_str().unwrap();
    let afslet = Afslet::new(&["--warm", "0", "--tls-dir", dir]);
    let of = |authority: &Authority, name: &str| {
        let dir = tempfile::tempdir().unwrap();
        authority.issue_believing(dir.path(), &[name], &ours.pem);
        dir
    };
    let client = of(&ours, "client.lamina.internal");
    let ran = {
        let client = connect(&afslet, client.path()).unwrap();
        let frames = vec![frame(Payload::Start(afslet.sh("echo ran")))];
        afslet.runtime.block_on(execute(client, frames))
    };
    assert_eq!(ran.out, "ran\n", "{ran:?}\n{}", afslet.logs());
    let node = of(&ours, "node.lamina.internal");
    let ran = {
        let client = connect(&afslet, node.path()).unwrap();
        let frames = vec![frame(Payload::Start(afslet.sh("echo ran")))];
        afslet.runtime.block_on(execute(client, frames))
    };
    assert_eq!(ran.code(), Code::PermissionDenied, "{ran:?}");
    let stranger = of(&others, "client.lamina.internal");
    let refused = || match connect(&afslet, stranger.path()) {
        None => true,
        Some(client) => {
            let frames = vec![frame(Payload::Start(afslet.sh("echo ran")))];
            let ran = afslet.runtime.block_on(execute(client, frames));
            ran.code() != Code::Ok && ran.out.is_empty()
        }
    };
    assert!(wait_until(refused));
}

#[test]
fn the_network_is_a_loopback_unless_the_afslet_gives_its_own() {
    let afslet = Afslet::new(&["--warm", "1", "--allow-host-network"]);
    let script = "ip link | grep -c ': '; cat /etc/hosts 2>/dev/null | wc -l";
    let own = afslet.run(afslet.sh(script));
    assert_eq!(own.out, "1\n0\n", "{own:?}");
    let host = afslet.run(StartRequest {
        network: Network::Host.into(),
        ..afslet.sh(&format!("{script}; echo x > /x"))
    });
    let here = std::fs::read_to_string("/etc/hosts")
        .unwrap()
        .lines()
        .count();
    assert!(host.out.ends_with(&format!("\n{here}\n")), "{host:?}");
    // What was shown to it is no change of its own.
    let changes = host.listing();
    assert!(
        changes.contains(" x\n") && !changes.contains("hosts"),
        "{changes}"
    );
}

#[test]
fn a_run_directory_is_one_afslet_s() {
    let afslet = Afslet::new(&["--warm", "0"]);
    let run_dir = afslet.machine.path("run").display().to_string();
    let said = afslet.machine.fails(
        1,
        &["afslet", "--listen", "127.0.0.1:0", "--run-dir", &run_dir],
    );
    assert!(said.contains("another afslet uses"), "{said}");
}

#[test]
fn it_does_not_serve_strangers_by_mistake() {
    let machine = Machine::new();
    let said = machine.fails(2, &["afslet", "--listen", "0.0.0.0:7170"]);
    assert!(said.contains("--tls-dir"), "{said}");
    machine.fails(2, &["afslet", "--insecure", "--tls-dir", "/tls"]);
    machine.fails(2, &["afslet", "--cpu", "0"]);
}
