//! The `CustomResourceDefinition` objects, as the chart installs them.

use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::text::rule;
use crate::{CLUSTER_NAME, Flist, Image, Job, LaminaCluster, Store, schema};

/// Every definition with its file name, in the order people meet them.
pub fn crds() -> Vec<(String, Value)> {
    [
        Image::crd(),
        Flist::crd(),
        Store::crd(),
        LaminaCluster::crd(),
        Job::crd(),
    ]
    .into_iter()
    .map(|crd| serde_json::to_value(crd).expect("a definition is JSON"))
    .map(|crd| (file_name(&crd), tidied(crd)))
    .collect()
}

fn file_name(crd: &Value) -> String {
    format!(
        "{}.yaml",
        crd["spec"]["names"]["plural"].as_str().unwrap_or_default()
    )
}

fn tidied(mut crd: Value) -> Value {
    let root = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema::tidy(root);
    if let Some(status) = root["properties"].get_mut("status") {
        status["description"] = json!("What became of it; written by the operator.");
    }
    if crd["spec"]["names"]["kind"] == "LaminaCluster" {
        let one = format!("self.metadata.name == '{CLUSTER_NAME}'");
        let message =
            format!("there is one LaminaCluster in a cluster, and its name is {CLUSTER_NAME}");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] =
            json!([rule(&one, &message)]);
    }
    crd
}

/// A definition as YAML.
pub fn yaml(crd: &Value) -> String {
    let body = yaml_of(crd);
    format!("# Generated from the types in crds/: UPDATE=1 cargo test -p lamina-crds\n{body}")
}

/// Any object as YAML.
pub fn yaml_of(object: &Value) -> String {
    serde_saphyr::to_string(object).expect("an object is YAML")
}

/// An object from YAML.
///
/// # Errors
/// Says where the text is not YAML.
pub fn from_yaml(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str(text)
}
