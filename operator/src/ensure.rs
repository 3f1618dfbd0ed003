//! Asking a node to have a flist: one bounded call; work that takes longer is found again by the next.

use std::time::Duration;

use lamina_crds::size;
use lamina_proto::lamina::v1::{EnsureProgress, EnsureRequest, FlistInfo};

use crate::context::Ctx;
use crate::fault::{Fault, from_status};
use crate::nodes::{NodeClient, Place};

/// How long one call listens. The node works on without a listener.
const LISTEN: Duration = Duration::from_secs(20);

/// Asks `place` for the flist; a [`Fault`] that is work means: ask again.
pub(crate) async fn ensure(
    ctx: &Ctx,
    place: &Place,
    request: EnsureRequest,
) -> Result<FlistInfo, Fault> {
    let _turn = ctx.ensures.acquire().await.expect("never closed");
    let node = ctx.dial.connect(&ctx.client, &ctx.namespace, place).await?;
    listen(node, place, request, LISTEN).await
}

async fn listen(
    mut node: NodeClient,
    place: &Place,
    request: EnsureRequest,
    patience: Duration,
) -> Result<FlistInfo, Fault> {
    let mut last = EnsureProgress::default();
    let followed = tokio::time::timeout(patience, follow(&mut node, place, request, &mut last));
    match followed.await {
        Ok(result) => result,
        Err(_) => Err(Fault::working(progress(place, &last))),
    }
}

async fn follow(
    node: &mut NodeClient,
    place: &Place,
    request: EnsureRequest,
    last: &mut EnsureProgress,
) -> Result<FlistInfo, Fault> {
    const WHAT: &str = "have the flist";
    let failed = |status| from_status(&place.name, WHAT, &status);
    let mut stream = node.ensure(request).await.map_err(failed)?.into_inner();
    while let Some(message) = stream.message().await.map_err(failed)? {
        if let Some(info) = message.done {
            return Ok(info);
        }
        *last = message;
    }
    Err(Fault::new(
        "Unavailable",
        format!("node {} ended without an answer", place.name),
    ))
}

/// One sentence. It names whole tenths only, so that a status is not written for every byte.
fn progress(place: &Place, last: &EnsureProgress) -> String {
    let phase = match last.phase.as_str() {
        "" => "at work",
        phase => phase,
    };
    match (last.bytes_done * 10).checked_div(last.bytes_total) {
        Some(tenths) => format!(
            "node {}: {phase}, {}0 % of {}",
            place.name,
            tenths.min(10),
            size(last.bytes_total)
        ),
        None => format!("node {}: {phase}", place.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::fake::FakeNode;

    async fn ask(fake: &FakeNode, patience: Duration) -> Result<FlistInfo, Fault> {
        let node = fake.client().await;
        listen(node, &fake.place, EnsureRequest::default(), patience).await
    }

    #[tokio::test]
    async fn the_last_message_is_the_answer() {
        let fake = FakeNode::start("a").await;
        fake.state().digest = "d1".into();
        let info = ask(&fake, Duration::from_secs(10)).await.unwrap();
        assert_eq!(info.digest, "d1");
    }

    #[tokio::test]
    async fn work_that_takes_longer_is_work_not_failure() {
        let fake = FakeNode::start("a").await;
        fake.state().hangs = true;
        let fault = ask(&fake, Duration::from_millis(300)).await.unwrap_err();
        assert!(fault.is_work(), "{fault:?}");
        assert_eq!(fault.message, "node a: convert, 50 % of 2.00 KiB");
    }

    #[tokio::test]
    async fn a_refusal_has_its_reason() {
        let fake = FakeNode::start("a").await;
        fake.state().refuses = Some(tonic::Code::PermissionDenied);
        let fault = ask(&fake, Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(fault.reason, "AccessDenied");
        assert!(fault.message.contains("node a"), "{}", fault.message);
    }
}
