//! The generated files are current, every schema is bounded, and bad objects are refused.

use std::fs;
use std::path::{Path, PathBuf};

use lamina_crds::schema::{messages, problems, unbounded};
use lamina_crds::{crds, markdown, yaml};
use serde_json::Value;

fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares a generated file, or writes it with `UPDATE=1`.
fn current(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, wanted).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not current: UPDATE=1 cargo test -p lamina-crds",
        path.display()
    );
}

fn root(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn generated_definitions_are_current() {
    let folder = repo().join("charts/lamina/crds-generated");
    for (name, crd) in crds() {
        current(&folder.join(name), &yaml(&crd));
    }
}

#[test]
fn generated_reference_is_current() {
    current(&repo().join("docs/crd-reference.md"), &markdown());
}

#[test]
fn every_text_list_and_map_has_a_limit() {
    for (name, crd) in crds() {
        let properties = &root(&crd)["properties"];
        for part in ["spec", "status"] {
            let found = unbounded(&properties[part]);
            assert!(found.is_empty(), "{name} {part}: no limit at {found:?}");
        }
    }
}

#[test]
fn definitions_have_what_people_look_for() {
    for (name, crd) in crds() {
        let names = &crd["spec"]["names"];
        assert_eq!(names["categories"][0], "lamina", "{name}");
        assert!(names["shortNames"][0].is_string(), "{name}");
        let version = &crd["spec"]["versions"][0];
        assert!(version["subresources"]["status"].is_object(), "{name}");
        assert!(version["additionalPrinterColumns"].is_array(), "{name}");
        let conditions = &root(&crd)["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{name}");
        let text = crd.to_string();
        for word in [
            "nullable",
            "oneOf",
            "\"$ref\"",
            "uint32",
            "\"default\":null",
        ] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}

#[test]
fn every_rule_says_what_to_do() {
    for (name, crd) in crds() {
        let text = root(&crd).to_string();
        let rules = text.matches("\"rule\":").count();
        assert_eq!(
            messages(root(&crd)).len(),
            rules,
            "{name}: a rule without a message"
        );
    }
}

#[test]
fn bad_objects_are_refused_with_the_message_they_name() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for document in text.split("---\n").skip(1) {
            refused(document);
            count += 1;
        }
    }
    assert!(count >= 40, "only {count} bad objects");
}

/// Structural refusals are evaluated; of CEL rules only the message is looked for (the rule itself runs in
/// the API server: `e2e/` asks one).
fn refused(document: &str) {
    let (first, _) = document.split_once('\n').unwrap();
    let expected = first.strip_prefix("# expect: ").expect(document);
    let object: Value = serde_saphyr::from_str(document).expect(document);
    let all = crds();
    let (_, crd) = all
        .iter()
        .find(|(_, crd)| crd["spec"]["names"]["kind"] == object["kind"])
        .expect(document);
    let found = problems(&root(crd)["properties"]["spec"], &object["spec"]);
    let found: Vec<String> = found
        .into_iter()
        .map(|one| one.replace("unknown field \"", "unknown field \"spec."))
        .map(|one| {
            if one.starts_with("unknown") {
                one
            } else {
                format!("spec.{one}")
            }
        })
        .collect();
    let structural = found.iter().any(|one| one.contains(expected));
    let by_rule = found.is_empty() && messages(root(crd)).iter().any(|one| one.contains(expected));
    assert!(
        structural || by_rule,
        "expected {expected:?}, found {found:?}, of\n{document}"
    );
}
