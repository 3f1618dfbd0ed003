//! A docker `config.json`: a login is found or not, and never shown.

use std::collections::BTreeMap;
use std::io::Write as _;

use lamina_store::Environment;
use lamina_store::backend::{DockerLogin, docker_login};

pub(crate) fn run(data: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(data).expect("writes");
    let none = Environment::from(BTreeMap::new());
    for host in ["docker.io", "registry.example", "registry.example:5000", ""] {
        let Ok(Some(login)) = docker_login(Some(file.path()), host, &none) else {
            continue;
        };
        let shown = format!("{login:?}");
        let hidden = match &login {
            DockerLogin::Password(user, password) => {
                shown == format!("Password({user:?}, ***)") || password.is_empty()
            }
            DockerLogin::IdentityToken(_) => shown == "IdentityToken(***)",
        };
        assert!(hidden, "{shown}");
    }
}
