//! Store URLs and specs: what is parsed reads back, and no password is shown,
//! not even by the error about a URL that is none.

use lamina_store::url::Place;
use lamina_store::{ShardRange, StoreSpec, StoreUrl, StoreUrlError};

/// Both halves of a password; what is between them a fuzzer may choose.
const SECRET: [&str; 2] = ["hunter2secret", "sesame9open"];

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(url) = text.parse::<StoreUrl>() {
        reads_back(&url);
    }
    if let Ok(spec) = text.parse::<StoreSpec>() {
        assert_eq!(spec.expose().parse(), Ok(spec.clone()));
        let stripped = spec.strip_credentials();
        assert_eq!(stripped.to_string().parse(), Ok(stripped));
    }
    let _ = text.parse::<ShardRange>();
    let glue: Vec<char> = text
        .chars()
        .filter(|c| !c.is_ascii_alphanumeric())
        .collect();
    for glue in [None, glue.first().copied(), glue.last().copied()] {
        with_password(text, &glue.map(String::from).unwrap_or_default());
    }
}

fn reads_back(url: &StoreUrl) {
    assert_eq!(url.expose().parse().as_ref(), Ok(url), "{}", url.expose());
    let stripped = url.strip_credentials();
    assert_eq!(stripped.expose().parse().as_ref(), Ok(&stripped));
    assert_eq!(stripped.to_string(), stripped.expose());
    assert_eq!(
        (stripped.place(), stripped.credentials()),
        (url.place(), &<_>::default())
    );
    let shown: StoreUrl = url.to_string().parse().expect("what is shown is a URL");
    assert_eq!(shown.place(), url.place());
    assert_eq!(shown.credentials().user, url.credentials().user);
    assert_eq!(shown.credentials().file, url.credentials().file);
    let password = url.credentials().password.as_ref().map(|_| "***");
    assert_eq!(shown.credentials().password.as_deref(), password);
}

/// Puts a user and a password behind the scheme, raw, as people do.
fn with_password(text: &str, glue: &str) {
    let Some((scheme, rest)) = text.split_once("://") else {
        return;
    };
    let [first, last] = SECRET;
    // A fuzzer learns the halves from the comparisons below.
    let lower = text.to_lowercase();
    if lower.contains(first) || lower.contains(last) {
        return;
    }
    let text = format!("{scheme}://user:{first}{glue}{last}@{rest}");
    match text.parse::<StoreUrl>() {
        // A folder may have any name.
        Ok(url) if matches!(url.place(), Place::Dir(_)) => reads_back(&url),
        Ok(url) => {
            hides(&text, &url.to_string());
            hides(&text, &format!("{url:?}"));
            hides(&text, &url.strip_credentials().expose());
            reads_back(&url);
        }
        Err(error) => error_hides(&text, &error),
    }
    if let Err(error) = text.parse::<StoreSpec>() {
        error_hides(&text, &error);
    }
}

fn error_hides(text: &str, error: &StoreUrlError) {
    hides(text, &error.to_string());
    hides(text, &format!("{error:?}"));
}

fn hides(text: &str, shown: &str) {
    let leaked = SECRET.iter().any(|half| shown.contains(half));
    assert!(!leaked, "{text:?} is shown as {shown:?}");
}
