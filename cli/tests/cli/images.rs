//! Images that are not there, damaged, hostile or packed in unusual ways: exit codes and words.

use crate::machine::Machine;
use std::process::Command;

/// One image as `docker save` writes it (`img.tar`) and as an OCI layout (`oci`), from `root/`.
const IMAGE: &str = r#"
    set -e
    mkdir -p root/bin
    echo hello > root/bin/hello
    test -f layer.tar || tar -C root -cf layer.tar .
    diff=$(sha256sum layer.tar | cut -d' ' -f1)
    test -f stored || cp layer.tar stored
    printf '{"os":"linux","architecture":"amd64","config":{"Cmd":["\\u001b[2J","\\u009b2J"],"Env":["A=\\u0007"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $diff > config.json
    printf '[{"Config":"config.json","RepoTags":["img:1"],"Layers":["layer.tar"]}]' > manifest.json
    tar -cf img.tar manifest.json config.json layer.tar

    mkdir -p oci/blobs/sha256
    blob() { d=$(sha256sum "$1" | cut -d' ' -f1); cp "$1" oci/blobs/sha256/$d; printf '"digest":"sha256:%s","size":%s' $d $(stat -c %s "$1"); }
    printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
    type=application/vnd.oci.image
    config=$(blob config.json); layer=$(blob stored)
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"%s",%s}]}' \
        $type.manifest.v1+json $type.config.v1+json "$config" $type.layer.v1.tar+gzip "$layer" > m.json
    manifest=$(blob m.json)
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s",%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' \
        $type.manifest.v1+json "$manifest" > oci/index.json
"#;

fn script(machine: &Machine, text: &str) {
    let output = Command::new("bash")
        .args(["-e", "-c", text])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{text}: {output:?}");
}

fn image() -> Machine {
    let machine = Machine::new();
    script(&machine, IMAGE);
    machine
}

fn fails(machine: &Machine, code: i32, source: &str) -> String {
    let said = machine.fails(
        code,
        &["convert", source, "-o", "x.fl", "-s", &machine.store()],
    );
    assert!(!machine.path("x.fl").exists());
    said
}

#[test]
fn a_tag_that_is_not_there_is_exit_code_3_and_the_others_are_named() {
    let machine = image();
    for source in ["oci:oci:2", "docker-archive:img.tar:nosuch"] {
        let said = fails(&machine, 3, source);
        assert!(said.contains("no image") && said.contains('1'), "{said}");
    }
    fails(&machine, 2, "oci:img.tar");
    fails(&machine, 2, "docker-archive:oci");
}

#[test]
fn an_archive_compressed_as_a_whole_converts_to_the_same_flist() {
    let machine = image();
    script(
        &machine,
        "gzip -k img.tar; zstd -q img.tar; bzip2 -k img.tar",
    );
    let store = machine.store();
    for (name, source) in [("a", "img.tar"), ("b", "img.tar.gz"), ("c", "img.tar.zst")] {
        let source = format!("docker-archive:{source}");
        machine.ok(&["convert", &source, "-o", name, "-s", &store]);
        assert_eq!(machine.ok(&["cat", name, "/bin/hello"]), "hello\n");
    }
    let said = fails(&machine, 8, "docker-archive:img.tar.bz2");
    assert!(said.contains("bzip2"), "{said}");
    script(&machine, "head -c 300 img.tar.gz > cut.tar.gz");
    fails(&machine, 8, "docker-archive:cut.tar.gz");
}

#[test]
fn damaged_and_hostile_images_are_exit_code_8() {
    for (what, spoil) in [
        (
            "the layer leaves its root",
            "tar -P -cf layer.tar --transform 's,^,../../,' root",
        ),
        (
            "the layer is cut",
            "tar -C root -cf whole.tar .; head -c 700 whole.tar > layer.tar",
        ),
        (
            "the layer has a wrong checksum",
            "tar -C root -cf layer.tar .; printf xx | dd of=layer.tar bs=1 seek=150 conv=notrunc status=none",
        ),
        (
            "the layer is no gzip inside",
            "tar -C root -cf layer.tar .; printf '\\37\\213nonsense and more of it' > stored",
        ),
        (
            "the layer is a cut gzip",
            "tar -C root -cf layer.tar .; gzip -c layer.tar | head -c 60 > stored",
        ),
        (
            "the layer is cut zstd",
            "tar -C root -cf layer.tar .; zstd -qc layer.tar | head -c 60 > stored",
        ),
        (
            "the layer is bzip2",
            "tar -C root -cf layer.tar .; bzip2 -c layer.tar > stored",
        ),
    ] {
        let machine = Machine::new();
        script(
            &machine,
            &format!("mkdir -p root/bin; echo 1 > root/bin/a; {spoil}"),
        );
        script(&machine, IMAGE);
        let said = fails(&machine, 8, "oci:oci:1");
        assert!(said.contains("layer"), "{what}: {said}");
    }
    let machine = image();
    script(
        &machine,
        "echo '{' > oci/index.json; head -c 1000 img.tar > cut.tar; echo text > none.tar",
    );
    for source in [
        "oci:oci",
        "docker-archive:cut.tar",
        "docker-archive:none.tar",
    ] {
        fails(&machine, 8, source);
    }
}

#[test]
fn nothing_in_an_image_can_drive_a_terminal() {
    let machine = image();
    machine.ok(&["convert", "oci:oci", "-o", "x.fl", "-s", &machine.store()]);
    machine.ok(&["config", "x.fl", "--set-tag", "a\u{1b}]0;b=\u{9b}2J"]);
    for verb in ["inspect", "config"] {
        for format in ["table", "json", "yaml"] {
            let said = machine.ok(&[verb, "x.fl", "-o", format]);
            let raw = |c: char| c.is_control() && c != '\n';
            assert!(!said.contains(raw), "{verb} {format}: {said:?}");
        }
    }
    let said = machine.ok(&["inspect", "x.fl"]);
    assert!(said.contains(r"\u{1b}[2J \u{9b}2J"), "{said}");
    let tags = &machine.json(&["config", "x.fl"])["tags"];
    assert_eq!(tags["a\u{1b}]0;b"], "\u{9b}2J");
}
