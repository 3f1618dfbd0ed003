//! Why a call failed.

use std::error::Error as _;

use tonic::Status;

/// What a failed call says, with what lies below it, which tonic keeps apart: a connection that was refused is told by that
/// alone.
pub fn reason(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
