//! Schemas as the API server wants them, and a reader of them.
//!
//! kube's derive says `nullable` of every optional field and formats that Kubernetes does not know; both
//! are taken out here. [`unbounded`] finds what has no limit, [`problems`] finds what of an object the
//! structural part of a schema refuses (not its CEL rules: only the API server runs those).

use serde_json::{Map, Value};

/// Cleans a schema in place.
pub fn tidy(schema: &mut Value) {
    if let Value::Object(map) = schema {
        tidy_map(map);
    }
}

fn tidy_map(map: &mut Map<String, Value>) {
    map.remove("nullable");
    map.remove("oneOf");
    if map.get("default") == Some(&Value::Null) {
        map.remove("default");
    }
    if let Some(format) = map.get("format").and_then(Value::as_str)
        && !matches!(format, "int32" | "int64" | "date-time")
    {
        map.remove("format");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(tidy);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(key) {
            tidy(inner);
        }
    }
}

/// Paths of texts, lists and maps without a limit.
pub fn unbounded(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(schema, &mut String::from("."), &mut found);
    found
}

fn walk(schema: &Value, path: &mut String, found: &mut Vec<String>) {
    let has = |key: &str| schema.get(key).is_some();
    let bounded = match schema["type"].as_str() {
        Some("string") => has("maxLength") || has("enum") || schema["format"] == "date-time",
        Some("array") => has("maxItems"),
        Some("object") if has("additionalProperties") => has("maxProperties"),
        Some(_) => true,
        None => has("x-kubernetes-int-or-string") && has("maxLength"),
    };
    if !bounded {
        found.push(path.clone());
    }
    for (step, inner) in children(schema) {
        let length = path.len();
        path.push_str(&step);
        walk(inner, path, found);
        path.truncate(length);
    }
}

fn children(schema: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    if let Some(properties) = schema["properties"].as_object() {
        all.extend(
            properties
                .iter()
                .map(|(name, inner)| (format!("{name}."), inner)),
        );
    }
    if let Some(items) = schema.get("items") {
        all.push(("[].".to_owned(), items));
    }
    if let Some(values) = schema.get("additionalProperties") {
        all.push(("*.".to_owned(), values));
    }
    all
}

/// Every CEL message of a schema.
pub fn messages(schema: &Value) -> Vec<String> {
    let own = schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten();
    let mut all: Vec<String> = own
        .filter_map(|rule| rule["message"].as_str().map(str::to_owned))
        .collect();
    for (_, inner) in children(schema) {
        all.extend(messages(inner));
    }
    all
}

/// What the structural part of `schema` refuses in `value`, in the API server's words.
pub fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{path}: Unsupported value: {value}"));
    }
    match (schema["type"].as_str(), value) {
        (Some("string") | None, Value::String(text)) => check_text(schema, text, path, found),
        (Some("integer"), Value::Number(number)) => {
            check_number(schema, number.as_f64(), path, found);
        }
        (Some("array"), Value::Array(items)) => check_list(schema, items, path, found),
        (Some("object"), Value::Object(fields)) => check_fields(schema, fields, path, found),
        (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(expected), _) => found.push(format!(
            "{path}: Invalid value: {path} in body must be of type {expected}"
        )),
    }
}

fn check_text(schema: &Value, text: &str, path: &str, found: &mut Vec<String>) {
    if let Some(most) = schema["maxLength"].as_u64()
        && text.chars().count() as u64 > most
    {
        found.push(format!(
            "{path}: Too long: may not be more than {most} bytes"
        ));
    }
}

fn check_number(schema: &Value, number: Option<f64>, path: &str, found: &mut Vec<String>) {
    let Some(number) = number else { return };
    if let Some(least) = schema["minimum"].as_f64()
        && number < least
    {
        found.push(format!(
            "{path} in body should be greater than or equal to {least}"
        ));
    }
    if let Some(most) = schema["maximum"].as_f64()
        && number > most
    {
        found.push(format!(
            "{path} in body should be less than or equal to {most}"
        ));
    }
}

fn check_list(schema: &Value, items: &[Value], path: &str, found: &mut Vec<String>) {
    if let Some(most) = schema["maxItems"].as_u64()
        && items.len() as u64 > most
    {
        found.push(format!(
            "{path}: Too many: {}: must have at most {most} items",
            items.len()
        ));
    }
    if schema["x-kubernetes-list-type"] == "set" {
        let repeated = items
            .iter()
            .enumerate()
            .find(|(at, item)| items[..*at].contains(item));
        if let Some((at, item)) = repeated {
            found.push(format!("{path}[{at}]: Duplicate value: {item}"));
        }
    }
    for (at, item) in items.iter().enumerate() {
        check(&schema["items"], item, &format!("{path}[{at}]"), found);
    }
}

fn check_fields(schema: &Value, fields: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let inner = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            found.push(format!("{}: Required value", inner(name)));
        }
    }
    if let Some(most) = schema["maxProperties"].as_u64()
        && fields.len() as u64 > most
    {
        found.push(format!(
            "{path}: Too many: {}: must have at most {most} items",
            fields.len()
        ));
    }
    for (name, value) in fields {
        if let Some(property) = schema["properties"].get(name) {
            check(property, value, &inner(name), found);
        } else if let Some(values) = schema.get("additionalProperties") {
            check(values, value, &inner(name), found);
        } else if schema.get("properties").is_some() {
            found.push(format!("unknown field \"{}\"", inner(name)));
        }
    }
}
