//! The authority over years, and who gets certificates of it: whole calls against a fake API server.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use lamina_proto::lamina::v1::SignRequest;
use lamina_proto::lamina::v1::certificates_client::CertificatesClient;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig,
};
use tonic::{Code, Status};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authority::{self, Ca, later, text};
use super::secrets::{Found, renewed};
use super::service::Service;
use super::*;
use crate::cluster::testing::FakeApi;
use crate::context::Ctx;

const SECRETS_AT: &str = "/api/v1/namespaces/lamina-system/secrets";
/// Between two looks for another certificate.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const REVIEWS_AT: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

fn days(now: Timestamp, days: u64) -> Timestamp {
    later(now, Duration::from_secs(days * 24 * 3600))
}

fn name(secret: &Secret) -> &str {
    secret.metadata.name.as_deref().unwrap()
}

fn names(secrets: &[Secret]) -> Vec<&str> {
    secrets.iter().map(name).collect()
}

fn part(secret: &Secret, key: &str) -> String {
    text(secret, key).unwrap().to_owned()
}

fn set(secret: &mut Secret, key: &str, value: &str) {
    let data = secret.data.get_or_insert_default();
    data.insert(key.to_owned(), ByteString(value.as_bytes().to_vec()));
}

/// The Secrets of a cluster, written as the leader does.
#[derive(Default)]
struct Cluster(Found);

impl Cluster {
    fn new(now: Timestamp) -> Self {
        let mut cluster = Self::default();
        cluster.renew(now);
        cluster
    }

    /// What was written.
    fn renew(&mut self, now: Timestamp) -> Vec<Secret> {
        let written = renewed(&self.0, now).unwrap();
        for new in &written {
            self.put(new.clone());
        }
        written
    }

    fn put(&mut self, new: Secret) {
        self.0.secrets.retain(|old| name(old) != name(&new));
        self.0.secrets.push(new);
    }

    fn get(&self, wanted: &str) -> &Secret {
        let mut all = self.0.secrets.iter();
        all.find(|secret| name(secret) == wanted).unwrap()
    }

    fn trusted(&self) -> Vec<String> {
        authority::each(&part(self.get(AUTHORITY_SECRET), "ca.crt"))
    }

    /// An API server that has them.
    fn api(&self) -> FakeApi {
        let api = FakeApi::default();
        for secret in &self.0.secrets {
            api.answer(&format!("{SECRETS_AT}/{}", name(secret)), json!(secret));
        }
        api
    }
}

#[test]
fn certificates_are_renewed_before_they_end() {
    let now = Timestamp::now();
    let mut cluster = Cluster::default();
    assert_eq!(cluster.renew(now).len(), SECRETS.len());
    assert_eq!(names(&cluster.renew(now)), [""; 0]);
    assert_eq!(names(&cluster.renew(days(now, 59))), [""; 0]);
    let leaves = [
        OPERATOR_SECRET,
        DISCOVERY_SECRET,
        CLIENT_SECRET,
        AFSLET_SECRET,
        PROXY_SECRET,
        USER_SECRET,
    ];
    assert_eq!(names(&cluster.renew(days(now, 61))), leaves);
    for secret in leaves {
        assert_eq!(
            part(cluster.get(secret), "ca.crt"),
            part(cluster.get(AUTHORITY_SECRET), "ca.crt")
        );
    }
}

#[test]
fn a_new_ca_is_trusted_before_it_signs_and_the_old_one_until_nothing_of_it_is_left() {
    let now = Timestamp::now();
    let mut cluster = Cluster::new(now);
    let old = cluster.trusted();
    let then = days(now, 3650 - 365 + 1);
    for secret in [
        OPERATOR_SECRET,
        CLIENT_SECRET,
        DISCOVERY_SECRET,
        AFSLET_SECRET,
        PROXY_SECRET,
        USER_SECRET,
    ] {
        // As if they had been renewed all along.
        let life = Duration::from_secs(90 * 24 * 3600);
        let ca = Ca::read(cluster.get(CA_SECRET)).unwrap();
        let mut leaf = cluster.get(secret).clone();
        let key = KeyPair::generate().unwrap();
        let subject = authority::Subject {
            common: secret,
            names: &[secret],
            usages: &[ExtendedKeyUsagePurpose::ServerAuth],
        };
        set(
            &mut leaf,
            "tls.crt",
            &ca.issue(&subject, &key, life, then).unwrap(),
        );
        set(&mut leaf, "tls.key", &key.serialize_pem());
        cluster.put(leaf);
    }
    let before = part(cluster.get(CLIENT_SECRET), "tls.crt");
    cluster.renew(then);
    assert_eq!(cluster.trusted().len(), 2);
    assert_eq!(cluster.trusted()[1], old[0]);
    let client = cluster.get(CLIENT_SECRET);
    assert_eq!(
        part(client, "tls.crt"),
        before,
        "the new CA is not known to all yet"
    );
    assert_eq!(authority::each(&part(client, "ca.crt")).len(), 2);
    let soon = later(then, Duration::from_secs(601));
    let written = cluster.renew(soon);
    assert_eq!(names(&written).len(), 6, "{:?}", names(&written));
    assert_ne!(part(cluster.get(CLIENT_SECRET), "tls.crt"), before);
    assert_eq!(cluster.trusted().len(), 2);
    cluster.renew(days(soon, 3));
    assert_eq!(cluster.trusted().len(), 1);
    assert_ne!(cluster.trusted()[0], old[0]);
}

/// A CA as cert-manager gives it: signed by another one, whose certificate comes along.
fn given() -> (Secret, String) {
    let now = Timestamp::now();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_key = KeyPair::generate().unwrap();
    let root = params.self_signed(&root_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, root_key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "given");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let end = days(now, 30).as_second().unsigned_abs();
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
    let key = KeyPair::generate().unwrap();
    let ca = params.signed_by(&key, &issuer).unwrap().pem();
    let mut secret = Secret::default();
    secret.metadata.name = Some("corporate".into());
    set(&mut secret, "tls.crt", &format!("{ca}{root}"));
    set(&mut secret, "tls.key", &key.serialize_pem());
    set(&mut secret, "ca.crt", &root);
    (secret, root)
}

#[test]
fn a_given_ca_signs_and_who_signed_it_is_not_trusted() {
    let now = Timestamp::now();
    let mut cluster = Cluster::default();
    cluster.0.given = Some("corporate".into());
    let missing = renewed(&cluster.0, now).unwrap_err().to_string();
    assert!(missing.contains("no Secret corporate"), "{missing}");
    let (secret, root) = given();
    cluster.put(secret.clone());
    let written = cluster.renew(now);
    assert!(!names(&written).contains(&CA_SECRET), "no CA of our own");
    assert_eq!(cluster.trusted().len(), 1);
    assert!(!cluster.trusted().contains(&authority::each(&root)[0]));
    let (_, end) = authority::validity(&part(cluster.get(CLIENT_SECRET), "tls.crt")).unwrap();
    assert!(end <= days(now, 30), "no certificate outlives its CA");
    assert_eq!(
        names(&cluster.renew(now)),
        [""; 0],
        "and it is not made again for that"
    );
    // It is renewed by who made it.
    cluster.put(given().0);
    cluster.renew(now);
    assert_eq!(cluster.trusted().len(), 2);
    let (mut wrong, _) = given();
    set(
        &mut wrong,
        "tls.key",
        &KeyPair::generate().unwrap().serialize_pem(),
    );
    cluster.put(wrong);
    let wrong = renewed(&cluster.0, now).unwrap_err().to_string();
    assert!(wrong.contains("not the key of tls.crt"), "{wrong}");
    let mut leaf = secret;
    set(
        &mut leaf,
        "tls.crt",
        &part(cluster.get(CLIENT_SECRET), "tls.crt"),
    );
    cluster.put(leaf);
    let leaf = renewed(&cluster.0, now).unwrap_err().to_string();
    assert!(leaf.contains("may not sign"), "{leaf}");
}

fn identity(secret: &Secret) -> Identity {
    Identity::from_pem(part(secret, "tls.crt"), part(secret, "tls.key"))
}

#[tokio::test]
async fn a_server_admits_only_clients_of_its_authority() {
    let now = Timestamp::now();
    let (ours, theirs) = (Cluster::new(now), Cluster::new(now));
    let ca = Ca::read(ours.get(CA_SECRET)).unwrap();
    let key = KeyPair::generate().unwrap();
    // Some clouds name nodes by their address.
    let request = request_of(&key, &CertificateParams::default());
    let cert = sign::sign(&ca, "10.0.0.7", &request, now).unwrap();
    let root = Certificate::from_pem(part(ours.get(AUTHORITY_SECRET), "ca.crt"));
    let server = ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key.serialize_pem()))
        .client_ca_root(root.clone());
    let fake = crate::nodes::fake::FakeNode::start_with(Some(server), "a").await;
    for (client, admitted) in [(ours, true), (theirs, false)] {
        let tls = ClientTlsConfig::new()
            .ca_certificate(root.clone())
            .identity(identity(client.get(CLIENT_SECRET)))
            .domain_name(SERVER_NAME);
        let channel = Endpoint::from_shared(format!("https://{}", fake.place.address))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect_lazy();
        let answer = crate::nodes::NodeClient::new(channel)
            .forget(lamina_proto::lamina::v1::ForgetRequest::default())
            .await;
        assert_eq!(answer.is_ok(), admitted, "{answer:?}");
    }
}

/// A certificate with its key, and whom its owner believes.
#[derive(Clone)]
struct Party {
    cert: String,
    key: String,
    trusts: String,
}

impl Party {
    fn of(secret: &Secret) -> Self {
        Self {
            cert: part(secret, "tls.crt"),
            key: part(secret, "tls.key"),
            trusts: part(secret, "ca.crt"),
        }
    }

    /// A node that was given a certificate by whoever signs now.
    fn node(cluster: &Cluster, now: Timestamp) -> Self {
        let ca = Ca::read(cluster.get("corporate")).unwrap();
        let key = KeyPair::generate().unwrap();
        let request = request_of(&key, &CertificateParams::default());
        Self {
            cert: sign::sign(&ca, "node-a", &request, now).unwrap(),
            key: key.serialize_pem(),
            trusts: part(cluster.get(AUTHORITY_SECRET), "ca.crt"),
        }
    }

    /// The same, that has heard who is trusted by now.
    fn told(&self, cluster: &Cluster) -> Self {
        Self {
            trusts: part(cluster.get(AUTHORITY_SECRET), "ca.crt"),
            ..self.clone()
        }
    }

    /// Whether this client and that server believe each other.
    async fn reaches(&self, server: &Self, name: &str) -> bool {
        let identity = |party: &Self| Identity::from_pem(&party.cert, &party.key);
        let tls = ServerTlsConfig::new()
            .identity(identity(server))
            .client_ca_root(Certificate::from_pem(&server.trusts));
        let fake = crate::nodes::fake::FakeNode::start_with(Some(tls), "a").await;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.trusts))
            .identity(identity(self))
            .domain_name(name);
        let endpoint = Endpoint::from_shared(format!("https://{}", fake.place.address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect_lazy();
        let request = lamina_proto::lamina::v1::ForgetRequest::default();
        let answer = crate::nodes::NodeClient::new(channel).forget(request).await;
        answer.is_ok()
    }
}

#[tokio::test]
async fn while_cert_manager_renews_the_ca_everybody_goes_on_reaching_everybody() {
    let now = Timestamp::now();
    let mut cluster = Cluster::default();
    cluster.0.given = Some("corporate".into());
    cluster.put(given().0);
    cluster.renew(now);
    let all = |cluster: &Cluster, node: &Party| {
        [
            (
                Party::of(cluster.get(CLIENT_SECRET)),
                node.clone(),
                SERVER_NAME,
            ),
            (node.clone(), node.clone(), SERVER_NAME),
            (
                node.clone(),
                Party::of(cluster.get(DISCOVERY_SECRET)),
                DISCOVERY_NAME,
            ),
            (
                node.clone(),
                Party::of(cluster.get(OPERATOR_SECRET)),
                OPERATOR_NAME,
            ),
        ]
    };
    let old = Party::node(&cluster, now);
    let old_client = Party::of(cluster.get(CLIENT_SECRET));
    // Another CA with another key, as `rotationPolicy: Always` makes it.
    cluster.put(given().0);
    cluster.renew(now);
    let soon = later(now, Duration::from_secs(601));
    for (told, at) in [(false, now), (true, now), (true, soon)] {
        cluster.renew(at);
        // What the node has is of the old CA until half of its day is over.
        let node = if told {
            old.told(&cluster)
        } else {
            old.clone()
        };
        for (client, server, name) in all(&cluster, &node) {
            let reached = client.reaches(&server, name).await;
            assert!(reached, "{name}, told: {told}, at {at}");
        }
    }
    let new = Party::node(&cluster, soon);
    for (client, server, name) in all(&cluster, &new) {
        assert!(client.reaches(&server, name).await, "{name}");
    }
    assert!(new.reaches(&old.told(&cluster), SERVER_NAME).await);
    assert!(old_client.reaches(&old, SERVER_NAME).await);
    // Who was never told of the new CA does not believe it: that is what the ten minutes are for.
    assert!(!old.reaches(&new, SERVER_NAME).await);
}

/// Who signs, as nodes reach it; ends when dropped.
struct Signing {
    at: SocketAddr,
    root: Certificate,
    ctx: Ctx,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Signing {
    async fn start(cluster: &Cluster, api: &FakeApi) -> Self {
        let ctx = api.ctx();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let own = cluster.get(OPERATOR_SECRET);
        let (root, pair) = (part(own, "ca.crt"), serve::pair(own).unwrap());
        let secrets = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
        let counted = ctx.metrics.certificates.clone();
        let service = Service::new(ctx.client.clone(), ctx.namespace.clone(), counted);
        let task = tokio::spawn(async move {
            serve::serve_on(listener, pair, &secrets, LOOK_EVERY, service).await
        });
        Self {
            at,
            root: Certificate::from_pem(root),
            ctx,
            task,
        }
    }

    fn channel(&self) -> Channel {
        let tls = ClientTlsConfig::new()
            .ca_certificate(self.root.clone())
            .domain_name("operator.lamina.internal");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.at)).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }

    async fn ask(&self, authorization: Option<&str>, request: Vec<u8>) -> Result<String, Status> {
        let mut request = tonic::Request::new(SignRequest { request });
        if let Some(text) = authorization {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", text.parse().unwrap());
        }
        let answer = CertificatesClient::new(self.channel()).sign(request).await;
        Ok(answer?.into_inner().certificate)
    }

    fn counted(&self, result: &str) -> u64 {
        let counted = &self.ctx.metrics.certificates;
        counted.with_label_values(&[result]).get()
    }
}

/// The API server's word for a token.
fn review(account: &str, extra: &Value) -> Value {
    json!({ "metadata": {}, "spec": { "token": "" }, "status": {
        "authenticated": true,
        "audiences": ["lamina.dev"],
        "user": { "username": format!("system:serviceaccount:{account}"), "extra": extra },
    } })
}

fn on_node(node: &str) -> Value {
    json!({ "authentication.kubernetes.io/node-name": [node] })
}

fn request_of(key: &KeyPair, params: &CertificateParams) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

fn request() -> Vec<u8> {
    request_of(&KeyPair::generate().unwrap(), &CertificateParams::default())
}

#[tokio::test]
async fn a_node_gets_a_certificate_of_its_own_name_whatever_it_asks_for() {
    let cluster = Cluster::new(Timestamp::now());
    let api = cluster.api();
    api.answer(
        REVIEWS_AT,
        review("lamina-system:lamina-node", &on_node("node-a")),
    );
    let signing = Signing::start(&cluster, &api).await;
    let foreign = vec![
        "client.lamina.internal".to_owned(),
        "node-b".to_owned(),
        "10.0.0.1".to_owned(),
    ];
    let mut params = CertificateParams::new(foreign).unwrap();
    params
        .distinguished_name
        .push(DnType::CommonName, "client.lamina.internal");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let request = request_of(&key, &params);
        let signed = signing.ask(Some("Bearer T"), request).await.unwrap();
        let pem = x509_parser::pem::Pem::iter_from_buffer(signed.as_bytes());
        let der = pem.map(Result::unwrap).next().unwrap().contents;
        let (_, parsed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(
            &*parsed.public_key().subject_public_key.data,
            rcgen::PublicKeyData::der_bytes(&key)
        );
        assert_eq!(parsed.subject().to_string(), "CN=node-a");
        let names = parsed.subject_alternative_name().unwrap().unwrap();
        let expected = ["node.lamina.internal", "peer.lamina.internal", "node-a"];
        assert_eq!(
            names.value.general_names,
            expected.map(GeneralName::DNSName)
        );
        assert!(!parsed.is_ca());
        let usages = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(usages.server_auth && usages.client_auth && !usages.code_signing);
        let life = parsed.validity().not_after.timestamp() - Timestamp::now().as_second();
        assert!((86_000..=86_400).contains(&life), "{life} s");
    }
    assert_eq!(signing.counted("signed"), 2);
    let asked = api.last_write(REVIEWS_AT);
    assert_eq!(
        asked["spec"],
        json!({ "token": "T", "audiences": ["lamina.dev"] })
    );
}

#[tokio::test]
async fn who_is_no_node_gets_none() {
    let cluster = Cluster::new(Timestamp::now());
    let api = cluster.api();
    let signing = Signing::start(&cluster, &api).await;
    let ours = review("lamina-system:lamina-node", &on_node("a"));
    let mut forged = ours.clone();
    forged["status"]["authenticated"] = json!(false);
    let mut elsewhere = ours.clone();
    elsewhere["status"]["audiences"] = json!(["https://kubernetes.default.svc"]);
    for (token, answer, code) in [
        (None, &ours, Code::Unauthenticated),
        (Some("T"), &ours, Code::Unauthenticated),
        (Some("Bearer "), &ours, Code::Unauthenticated),
        (Some("Bearer T"), &forged, Code::Unauthenticated),
        (Some("Bearer T"), &elsewhere, Code::Unauthenticated),
        (
            Some("Bearer T"),
            &review("lamina-system:lamina-csi", &on_node("a")),
            Code::PermissionDenied,
        ),
        (
            Some("Bearer T"),
            &review("other:lamina-node", &on_node("a")),
            Code::PermissionDenied,
        ),
        (
            Some("Bearer T"),
            &review("lamina-system:lamina-node", &json!({})),
            Code::PermissionDenied,
        ),
        (
            Some("Bearer T"),
            &review(
                "lamina-system:lamina-node",
                &on_node("client.lamina.internal"),
            ),
            Code::PermissionDenied,
        ),
    ] {
        api.answer(REVIEWS_AT, answer.clone());
        let refused = signing.ask(token, request()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{token:?} {answer}: {refused}");
    }
    assert_eq!(
        (signing.counted("refused"), signing.counted("signed")),
        (9, 0)
    );
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let cluster = Cluster::new(Timestamp::now());
    let api = cluster.api();
    api.answer(
        REVIEWS_AT,
        review("lamina-system:lamina-node", &on_node("a")),
    );
    let signing = Signing::start(&cluster, &api).await;
    let mut tampered = request();
    *tampered.last_mut().unwrap() ^= 1;
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    for (what, bytes) in [
        ("empty", Vec::new()),
        ("garbage", vec![0x30; 300]),
        ("tampered with", tampered),
        ("RSA", request_of(&rsa, &CertificateParams::default())),
        ("too big", vec![0; 9 << 10]),
    ] {
        let refused = signing.ask(Some("Bearer T"), bytes).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        assert!(
            refused.message().starts_with("request: "),
            "{what}: {refused}"
        );
    }
    let refused = signing
        .ask(Some("Bearer T"), vec![0; 1 << 20])
        .await
        .unwrap_err();
    assert_ne!(refused.code(), Code::Ok, "{refused}");
    let long = format!("Bearer {}", "x".repeat(10_000));
    let refused = signing.ask(Some(&long), request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[tokio::test]
async fn one_node_cannot_keep_the_signer_busy() {
    let cluster = Cluster::new(Timestamp::now());
    let api = cluster.api();
    api.answer(
        REVIEWS_AT,
        review("lamina-system:lamina-node", &on_node("a")),
    );
    let signing = Signing::start(&cluster, &api).await;
    let mut limited = 0;
    for _ in 0..40 {
        match signing.ask(Some("Bearer T"), request()).await {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                limited += 1;
            }
        }
    }
    assert!(limited >= 10, "{limited} of 40 were refused");
    assert_eq!(signing.counted("limited"), limited);
}

#[tokio::test]
async fn a_ca_that_not_everybody_trusts_yet_signs_nothing() {
    let now = Timestamp::now();
    let mut cluster = Cluster::new(now);
    cluster.0.secrets.retain(|secret| name(secret) != CA_SECRET);
    cluster.renew(now);
    assert_eq!(cluster.trusted().len(), 2);
    let api = cluster.api();
    api.answer(
        REVIEWS_AT,
        review("lamina-system:lamina-node", &on_node("a")),
    );
    let signing = Signing::start(&cluster, &api).await;
    let refused = signing.ask(Some("Bearer T"), request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    assert!(
        refused.message().contains("published only now"),
        "{refused}"
    );
    // Nor one that was put there without being published.
    let (mut other, _) = given();
    other.metadata.name = Some(CA_SECRET.into());
    api.answer(&format!("{SECRETS_AT}/{CA_SECRET}"), json!(other));
    let refused = signing.ask(Some("Bearer T"), request()).await.unwrap_err();
    assert!(refused.message().contains("not published yet"), "{refused}");
}

#[tokio::test]
async fn who_signs_takes_its_own_renewed_certificate_while_it_serves() {
    let now = Timestamp::now();
    let cluster = Cluster::new(now);
    let api = cluster.api();
    let of_a_node = review("lamina-system:lamina-node", &on_node("a"));
    api.answer(REVIEWS_AT, of_a_node);
    let mut signing = Signing::start(&cluster, &api).await;
    signing.ask(Some("Bearer T"), request()).await.unwrap();
    let other = Cluster::new(now);
    let renewed = other.get(OPERATOR_SECRET);
    api.answer(&format!("{SECRETS_AT}/{OPERATOR_SECRET}"), json!(renewed));
    // Who believes the new authority alone is served from then on.
    signing.root = Certificate::from_pem(part(renewed, "ca.crt"));
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = signing.ask(Some("Bearer T"), request()).await {
        assert!(std::time::Instant::now() < end, "{error}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    assert_eq!(signing.counted("signed"), 2);
}
