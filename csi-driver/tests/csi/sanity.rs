//! Upstream's csi-sanity before the model of the node server. Needs its binary: `LAMINA_CSI_SANITY=PATH`.

use tokio::process::Command;

use crate::driver::Driver;

#[tokio::test]
async fn csi_sanity_finds_nothing() {
    let Some(program) = std::env::var_os("LAMINA_CSI_SANITY") else {
        eprintln!(
            "SKIPPED: csi_sanity_finds_nothing: set LAMINA_CSI_SANITY to the path of csi-sanity"
        );
        return;
    };
    let driver = Driver::start(&["--with-controller"]).await;
    driver.fake.model.lock().unwrap().directories = true;
    let at = |name: &str| driver.dir.path().join(name).display().to_string();
    std::fs::write(at("parameters.yaml"), "lamina.dev/image: python:3.13\n").unwrap();
    let ran = Command::new(program)
        .arg("--csi.endpoint")
        .arg(format!("unix://{}", at("csi.sock")))
        .args([
            "--csi.mountdir",
            &at("mount"),
            "--csi.stagingdir",
            &at("staging"),
        ])
        .args([
            "--csi.testvolumeparameters",
            &at("parameters.yaml"),
            "--ginkgo.v",
            "--ginkgo.no-color",
        ])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    println!(
        "{}",
        said.lines().rev().take(3).collect::<Vec<_>>().join("\n")
    );
}
