//! Store URLs: a corpus of regressions, and properties over generated ones.

use lamina_store::{ShardRange, StoreSpec, StoreUrl, url};
use proptest::prelude::*;

fn corpus(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once(" -> ").expect("two parts"))
}

#[test]
fn good_urls_render_canonically_and_read_back() {
    for (text, canonical) in corpus(include_str!("../corpus/urls-good.txt")) {
        let url: StoreUrl = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(url.to_string(), canonical, "{text}");
        assert_eq!(url.expose().parse::<StoreUrl>().unwrap(), url, "{text}");
        let bare = url.strip_credentials();
        assert_eq!(
            bare.to_string().parse::<StoreUrl>().unwrap(),
            bare,
            "{text}"
        );
        assert_eq!(bare.credentials().user, None);
        assert_eq!(bare.credentials().file, None);
    }
}

#[test]
fn bad_urls_say_what_is_wrong_and_never_show_a_password() {
    for (text, part) in corpus(include_str!("../corpus/urls-bad.txt")) {
        let error = match text.parse::<StoreUrl>() {
            Ok(url) => panic!("{text} was read as {url}"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn an_unencoded_password_is_not_shown_by_errors() {
    for text in [
        "s3://KEY:XYZ/QQV@bucket",
        "s3://KEY:XYZ@QQV@bucket?nope=1",
        "http://u:XYZ QQV@host:bad/x",
        "ftp://u:XYZQQV@h",
        // Found by fuzzing: most of these showed the password.
        "s3://u:XYZ?QQV@bucket",
        "s3://bucket?endpoint=http://u:XYZQQV@minio.example",
        "s3://bucket?http://u:XYZQQV@minio.example",
        "dir://u:XYZ%QQV@host/srv",
        "u:XYZQQV@host",
        "u:XYZQQV@host?x=http://h",
    ] {
        let error = text.parse::<StoreUrl>().unwrap_err().to_string();
        let shown = error.to_uppercase();
        assert!(
            !shown.contains("XYZ") && !shown.contains("QQV"),
            "{text}: {error}"
        );
    }
    assert_eq!(url::redact("s3://k:p/w@b/x?a=b@c"), "s3://***@c");
}

/// Any text a password can be.
fn secret() -> impl Strategy<Value = String> {
    "[A-Za-z0-9/+@:?#% é=-]{8,40}"
}

fn valid() -> impl Strategy<Value = String> {
    let bucket = ("[a-z0-9][a-z0-9.-]{1,20}", "(/[A-Za-z0-9_=-]{1,8}){0,3}");
    prop_oneof![
        "(/[a-zA-Z0-9 %?#é.-]{1,10}){1,4}".prop_map(|path| StoreUrl::dir(path).to_string()),
        bucket.prop_map(|(b, p)| format!("s3://{b}{p}?region=x-1")),
        bucket.prop_map(|(b, p)| format!("gs://{b}{p}")),
        bucket.prop_map(|(b, p)| format!("az://{b}{p}?account=a")),
        ("[a-z]{1,10}(:[1-9][0-9]{0,3})?", "(/[a-z0-9]{1,8}){0,3}")
            .prop_map(|(h, p)| format!("https://{h}{p}")),
        ("[a-z]{1,10}(:[1-9][0-9]{0,3})?", "(/[a-z0-9]{1,8}){1,3}")
            .prop_map(|(h, p)| format!("oci://{h}{p}")),
    ]
}

fn encode(secret: &str) -> String {
    secret
        .bytes()
        .fold(String::new(), |text, b| text + &format!("%{b:02X}"))
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_panic(text in "\\PC*") {
        let _ = text.parse::<StoreSpec>();
    }

    #[test]
    fn near_urls_are_read_or_refused_without_panic(text in "(dir|s3|gs|az|https?|oci)://[a-z0-9:@/?&=%.\\[\\]#-]{0,40}") {
        if let Ok(url) = text.parse::<StoreUrl>() {
            prop_assert_eq!(url.expose().parse::<StoreUrl>(), Ok(url), "{}", text);
        }
    }

    #[test]
    fn rendering_and_reading_are_inverse(text in valid(), first: u8, last: u8) {
        let url: StoreUrl = text.parse().unwrap();
        prop_assert_eq!(&url.to_string().parse::<StoreUrl>().unwrap(), &url);
        if let Some(range) = ShardRange::new(first, last) {
            let spec = StoreSpec { range, url };
            prop_assert_eq!(spec.to_string().parse::<StoreSpec>().unwrap(), spec);
        }
    }

    #[test]
    fn passwords_survive_exposing_and_never_show_otherwise(text in valid(), password in secret()) {
        prop_assume!(!text.starts_with("dir://") && !text.starts_with("gs://"));
        let (scheme, rest) = text.split_once("://").unwrap();
        let url: StoreUrl = format!("{scheme}://user:{}@{rest}", encode(&password)).parse().unwrap();
        prop_assert_eq!(url.credentials().password.as_deref(), Some(password.as_str()));
        prop_assert_eq!(&url.expose().parse::<StoreUrl>().unwrap(), &url);
        let shown = format!("{url} {url:?} {} {:?}", url.strip_credentials(), StoreSpec::all(url.clone()));
        prop_assert!(!shown.contains(&password), "{}", shown);
        prop_assert!(!shown.contains(&encode(&password)), "{}", shown);
    }
}
