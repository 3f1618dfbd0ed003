//! `docs/crd-reference.md`, from the schemas.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{crds, schema};

const HEAD: &str = "# Kubernetes objects

Group `lamina.dev`, version `v1alpha1`. This page is generated from the types in `crds/`
(`UPDATE=1 cargo test -p lamina-crds`).

Every status has `conditions` as Kubernetes defines them; `kubectl wait --for=condition=Ready` works on each
kind but `Job`, which this version does not act upon. `kubectl get lamina` lists them all.
";

/// The page.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for (_, crd) in crds() {
        kind(&mut page, &crd).expect("a string can be written to");
    }
    page
}

fn kind(page: &mut String, crd: &Value) -> std::fmt::Result {
    let names = &crd["spec"]["names"];
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    writeln!(page, "\n## {}\n", word(&names["kind"]))?;
    writeln!(page, "{}\n", word(&root["description"]))?;
    let scope = if crd["spec"]["scope"] == "Namespaced" {
        "a namespace"
    } else {
        "the cluster"
    };
    writeln!(
        page,
        "Short name `{}`; belongs to {scope}.\n",
        word(&names["shortNames"][0])
    )?;
    for part in ["spec", "status"] {
        writeln!(page, "| `{part}` | type | meaning |\n|---|---|---|")?;
        fields(page, &root["properties"][part], "")?;
        writeln!(page)?;
    }
    let rules = schema::messages(root);
    if !rules.is_empty() {
        writeln!(page, "What is refused, in the API server's words:\n")?;
        let mut seen: Vec<String> = Vec::new();
        for rule in rules {
            if !seen.contains(&rule) {
                writeln!(page, "- {rule}")?;
                seen.push(rule);
            }
        }
    }
    Ok(())
}

fn fields(page: &mut String, object: &Value, above: &str) -> std::fmt::Result {
    let Some(properties) = object["properties"].as_object() else {
        return Ok(());
    };
    let required = |name: &str| {
        object["required"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == name))
    };
    for (name, property) in properties {
        let path = format!("{above}{name}");
        let must = if required(name) && !above.starts_with("conditions") {
            " **required**"
        } else {
            ""
        };
        let about = property["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        writeln!(
            page,
            "| `{path}` | {}{must} | {about}{} |",
            type_of(property),
            default_of(property)
        )?;
        if name == "conditions" {
            continue;
        }
        fields(page, property, &format!("{path}."))?;
        if let Some(items) = property.get("items") {
            fields(page, items, &format!("{path}[]."))?;
        }
    }
    Ok(())
}

fn type_of(property: &Value) -> String {
    if let Some(values) = property["enum"].as_array() {
        let names: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|name| format!("`{name}`"))
            .collect();
        return names.join(", ");
    }
    let limit = |key: &str, unit: &str| {
        property[key]
            .as_u64()
            .map_or(String::new(), |most| format!(" (at most {most}{unit})"))
    };
    match property["type"].as_str() {
        Some("string") if property["format"] == "date-time" => "time".to_owned(),
        Some("string") => format!("text{}", limit("maxLength", "")),
        Some("array") => format!("list{}", limit("maxItems", "")),
        Some("object") if property.get("additionalProperties").is_some() => {
            format!("map{}", limit("maxProperties", ""))
        }
        Some(other) => other.to_owned(),
        None => "number or text".to_owned(),
    }
}

fn default_of(property: &Value) -> String {
    match property.get("default") {
        Some(Value::Object(_)) | None => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(value) => format!(
            " Default: `{}`.",
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        ),
    }
}
