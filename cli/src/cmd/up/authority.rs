//! The authority of one machine's tree: made at the first start, kept in the state directory.
//!
//! ```text
//! DIR/ca.crt, ca.key                  the authority; good for ten years
//! DIR/{discovery,node,afslet,proxy,user}/tls.crt, ...   what a role shows; good for 90 days, renewed a month before
//! ```
//! Files are replaced whole; the roles read them again when they change.

use anyhow::{Context, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_DAYS: u32 = 3650;
const LEAF_DAYS: u32 = 90;
const RENEW_DAYS: u32 = 30;

/// Who has commands run: what `lamina exec` shows on this machine.
pub(crate) const USER: &str = "user";

/// The authority of one tree.
#[derive(Debug)]
pub(super) struct Authority {
    dir: PathBuf,
    node: String,
}

impl Authority {
    /// Makes it, or what it lacks, for the roles of the node `node`.
    pub(super) fn open(dir: PathBuf, node: &str) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("make the directory {}", dir.display()))?;
        let this = Self {
            dir,
            node: node.to_owned(),
        };
        this.renew()?;
        Ok(this)
    }

    /// Replaces what ends soon.
    pub(super) fn renew(&self) -> Result<()> {
        let now = SystemTime::now();
        let ca = self.dir.join("ca.crt");
        if !good_for(&ca, now, RENEW_DAYS * 2) || !self.dir.join("ca.key").exists() {
            self.make_ca(now)?;
        }
        let roles = [
            ("discovery", named(&["discovery.lamina.internal"])),
            (
                "node",
                named(&[&self.node, "node.lamina.internal", "peer.lamina.internal"]),
            ),
            ("afslet", named(&["afslet.lamina.internal"])),
            // To nodes it is one that may have layers pulled and read.
            (
                "proxy",
                named(&["proxy.lamina.internal", "peer.lamina.internal"]),
            ),
            (USER, named(&["user.lamina.internal"])),
        ];
        for (role, names) in roles {
            let dir = self.dir.join(role);
            let believed = std::fs::read(dir.join("ca.crt")).ok();
            let is_ours = believed.is_some() && believed == std::fs::read(&ca).ok();
            if !is_ours || !good_for(&dir.join("tls.crt"), now, RENEW_DAYS) {
                make_leaf(&self.dir, &dir, names, now)?;
            }
        }
        Ok(())
    }

    fn make_ca(&self, now: SystemTime) -> Result<()> {
        let mut params = params("Lamina on one machine", Vec::new(), CA_DAYS, now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make the authority's key")?;
        let pem = params
            .self_signed(&key)
            .context("make the authority")?
            .pem();
        write(&self.dir, "ca.key", &key.serialize_pem())?;
        write(&self.dir, "ca.crt", &pem)
    }
}

/// A key and certificate for the node `name` of another machine, of the authority in `authority`; for how many days.
pub(super) fn certify(authority: &Path, name: &str, to: &Path) -> Result<u32> {
    if !authority.join("ca.key").exists() {
        bail!(
            "there is no authority in {}: the `lamina up` that others join makes it when it is first started",
            authority.display()
        );
    }
    let names = [
        name,
        "node.lamina.internal",
        "peer.lamina.internal",
        "afslet.lamina.internal",
        "proxy.lamina.internal",
    ];
    make_leaf(authority, to, named(&names), SystemTime::now())?;
    Ok(LEAF_DAYS)
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A key in `dir` and what the authority in `authority` says of it.
fn make_leaf(authority: &Path, dir: &Path, names: Vec<String>, now: SystemTime) -> Result<()> {
    let read = |name: &str| {
        let path = authority.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    let (ca, ca_key) = (read("ca.crt")?, read("ca.key")?);
    let ca_key = KeyPair::from_pem(&ca_key).context("use the authority's key")?;
    let issuer = Issuer::from_ca_cert_pem(&ca, ca_key).context("use the authority")?;
    let mut params = params(&names[0].clone(), names, LEAF_DAYS, now)?;
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().context("make a role's key")?;
    let pem = params
        .signed_by(&key, &issuer)
        .context("sign a certificate")?
        .pem();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("make the directory {}", dir.display()))?;
    write(dir, "tls.key", &key.serialize_pem())?;
    write(dir, "tls.crt", &pem)?;
    // Last: a directory without it, or with another one, is made anew.
    write(dir, "ca.crt", &ca)
}

fn params(name: &str, names: Vec<String>, days: u32, now: SystemTime) -> Result<CertificateParams> {
    let mut params =
        CertificateParams::new(names).context("use the node's name in a certificate")?;
    params.distinguished_name.push(DnType::CommonName, name);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // The clock may be set back a little.
    params.not_before = epoch + since.saturating_sub(DAY);
    params.not_after = epoch + since + days * DAY;
    Ok(params)
}

/// Whether the certificate in this file is good for so many days more.
fn good_for(path: &Path, now: SystemTime, days: u32) -> bool {
    let Ok(text) = std::fs::read(path) else {
        return false;
    };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&text) else {
        return false;
    };
    let Ok(certificate) = pem.parse_x509() else {
        return false;
    };
    let until = now + days * DAY;
    let until = until.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(certificate.validity().not_after.timestamp())
        .is_ok_and(|end| end > until.as_secs())
}

/// Replaces a file as a whole; only its owner may read it.
fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = dir.join(name);
    let replace = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(())
    };
    replace().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(dir: &Path, name: &str) -> Vec<u8> {
        std::fs::read(dir.join(name)).unwrap()
    }

    #[test]
    fn what_is_good_stays_and_what_ends_soon_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let dir = state.path().join("authority");
        Authority::open(dir.clone(), "a-node").unwrap();
        let first = (read(&dir, "ca.crt"), read(&dir, "node/tls.crt"));
        let again = Authority::open(dir.clone(), "a-node").unwrap();
        assert_eq!(first, (read(&dir, "ca.crt"), read(&dir, "node/tls.crt")));
        let now = SystemTime::now();
        assert!(good_for(&dir.join("node/tls.crt"), now, LEAF_DAYS - 1));
        assert!(!good_for(&dir.join("node/tls.crt"), now, LEAF_DAYS + 1));
        std::fs::write(dir.join("node/tls.crt"), "damaged").unwrap();
        again.renew().unwrap();
        assert_eq!(first.0, read(&dir, "ca.crt"));
        assert_ne!(first.1, read(&dir, "node/tls.crt"));
        // Another authority is nobody the roles' old certificates are of.
        std::fs::remove_file(dir.join("ca.key")).unwrap();
        let before = read(&dir, "discovery/tls.crt");
        again.renew().unwrap();
        assert_ne!(first.0, read(&dir, "ca.crt"));
        assert_ne!(before, read(&dir, "discovery/tls.crt"));
        assert_eq!(read(&dir, "ca.crt"), read(&dir, "discovery/ca.crt"));
    }
}
