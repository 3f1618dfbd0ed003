//! What leaves a cluster in a report: objects and texts without what opens doors.
//!
//! Removed: user and password and everything after `?` in URLs, values of environment variables and keys whose
//! names speak of secrets, `data` of secrets (which are not asked for either), bearer tokens, private keys,
//! files and logs of Jobs.
//! What is doubtful goes, too.

use serde_json::Value;

/// In place of what was removed.
const REMOVED: &str = "REMOVED";
/// Parts of names whose values are not shown.
const SECRET_WORDS: [&str; 8] = [
    "password",
    "passwd",
    "secretkey",
    "token",
    "credential",
    "apikey",
    "accesskey",
    "auth",
];
/// What people put into a Job, and what its command wrote: nobody knows what is in it.
const CONTENT: [&str; 2] = ["inline", "logTail"];
/// Annotations that repeat the object as somebody typed it, and fields nobody reads.
const DROPPED: [&str; 2] = [
    "managedFields",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// An object without what must not leave.
pub(crate) fn object(value: &mut Value) {
    if value["kind"] == "Secret" {
        *value = Value::String(REMOVED.to_owned());
        return;
    }
    walk(value);
}

fn walk(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !DROPPED.contains(&name.as_str()));
            let named = fields
                .get("name")
                .and_then(Value::as_str)
                .is_some_and(is_secret);
            for (name, below) in fields.iter_mut() {
                let is_content = CONTENT.contains(&name.as_str());
                let hidden = is_content || is_secret(name) || named && name == "value";
                match below {
                    Value::String(said) if hidden => REMOVED.clone_into(said),
                    below => walk(below),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        Value::String(said) => *said = text(said),
        _ => {}
    }
}

fn is_secret(name: &str) -> bool {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    SECRET_WORDS.iter().any(|word| plain.contains(word)) && !is_reference(&plain)
}

/// Names of secrets, and switches about tokens, are not secrets.
fn is_reference(plain: &str) -> bool {
    const ENDS: [&str; 5] = ["name", "ref", "policy", "mount", "path"];
    plain.contains("automount") || ENDS.iter().any(|end| plain.ends_with(end))
}

/// A text, such as a log, without what must not leave.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        in_key |= line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if in_key {
            in_key = !(line.contains("-----END") && line.contains("PRIVATE KEY"));
            out.push_str(REMOVED);
            out.push('\n');
        } else {
            out.push_str(&tokens(&urls(line)));
        }
    }
    out
}

/// `scheme://user:password@host/path?query` as `scheme://REMOVED@host/path?REMOVED`.
fn urls(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '`'))
            .unwrap_or(after.len());
        let (url, next) = after.split_at(end);
        out.push_str(&url_text(url));
        rest = next;
    }
    out.push_str(rest);
    out
}

fn url_text(url: &str) -> String {
    let (place, query) = match url.split_once('?') {
        Some((place, _)) => (place, format!("?{REMOVED}")),
        None => (url, String::new()),
    };
    // A password may hold a slash that should have been escaped: up to the last `@`, all of it goes.
    match place.rsplit_once('@') {
        Some((user, host)) if !user.ends_with('/') && !is_path(user) => {
            format!("{REMOVED}@{host}{query}")
        }
        _ => format!("{place}{query}"),
    }
}

/// `registry/repository` before an image's `@sha256:`: no user's name.
fn is_path(user: &str) -> bool {
    user.contains('/')
        && !user
            .split('/')
            .next()
            .is_some_and(|host| host.contains(':') && !is_port(host))
}

fn is_port(host: &str) -> bool {
    host.rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

/// The word after `Bearer` or `Basic`, and the value after `password=` and the like.
fn tokens(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut hide = false;
    for piece in
        line.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | ';' | '&'))
    {
        let word = piece
            .trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '"' | ',' | ';' | '&'));
        let tail = &piece[word.len()..];
        let assigned = word
            .split_once(['=', ':'])
            .filter(|(name, _)| is_secret(name));
        match assigned {
            _ if hide && word.len() > 3 => out.push_str(REMOVED),
            Some((name, value)) if !value.is_empty() && !value.starts_with("//") => {
                out.push_str(&word[..=name.len()]);
                out.push_str(REMOVED);
            }
            _ => out.push_str(word),
        }
        out.push_str(tail);
        let scheme = word.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
        hide = match word.is_empty() {
            true => hide,
            false => scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("basic"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn urls_keep_their_place_and_lose_their_credentials() {
        for (text, left) in [
            ("s3://key:pa/ss@host/bucket", "s3://REMOVED@host/bucket"),
            (
                "get https://user:pw@host/a?X-Sig=1 failed",
                "get https://REMOVED@host/a?REMOVED failed",
            ),
            (
                "\"oci://host:5000/a@sha256:00\"",
                "\"oci://host:5000/a@sha256:00\"",
            ),
            ("dir:///var/lib/lamina/store", "dir:///var/lib/lamina/store"),
            (
                "two http://a:b@c and http://d:e@f",
                "two http://REMOVED@c and http://REMOVED@f",
            ),
        ] {
            assert_eq!(super::text(text), left);
        }
    }

    #[test]
    fn logs_lose_tokens_and_keys() {
        for (text, left) in [
            (
                "Authorization: Bearer eyJhbGci.x.y end",
                "Authorization: Bearer REMOVED end",
            ),
            ("password=hunter2, user=me", "password=REMOVED, user=me"),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nafter\n",
                "REMOVED\nREMOVED\nREMOVED\nafter\n",
            ),
        ] {
            assert_eq!(super::text(text), left);
        }
    }

    #[test]
    fn objects_keep_names_of_secrets_and_lose_their_values() {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": { "name": "web", "managedFields": [1] },
            "spec": {
                "automountServiceAccountToken": true,
                "env": [
                    { "name": "STORE_PASSWORD", "value": "hunter2" },
                    { "name": "NODE_NAME", "value": "n1" },
                ],
                "url": "https://u:p@host/",
                "secretName": "lamina-client-tls",
            },
        });
        object(&mut pod);
        assert_eq!(
            pod,
            json!({
                "kind": "Pod",
                "metadata": { "name": "web" },
                "spec": {
                    "automountServiceAccountToken": true,
                    "env": [
                        { "name": "STORE_PASSWORD", "value": "REMOVED" },
                        { "name": "NODE_NAME", "value": "n1" },
                    ],
                    "url": "https://REMOVED@host/",
                    "secretName": "lamina-client-tls",
                },
            })
        );
        let mut secret = json!({ "kind": "Secret", "data": { "a": "b" } });
        object(&mut secret);
        assert_eq!(secret, json!("REMOVED"));
    }

    #[test]
    fn what_a_job_was_given_and_what_it_wrote_stays_here() {
        let mut job = serde_json::json!({
            "kind": "Job",
            "spec": { "files": [{ "path": "/a", "inline": "hunter2" }] },
            "status": { "logTail": "hunter2", "runs": [{ "attempt": 1, "logTail": "hunter2", "exitCode": 3 }] },
        });
        object(&mut job);
        assert!(!job.to_string().contains("hunter2"), "{job}");
        assert_eq!(job["status"]["runs"][0]["exitCode"], 3);
    }
}
