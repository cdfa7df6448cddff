//! What `/readyz?verbose` says of each watched kind.
//!
//! It decides nothing: a replica that serves is ready, with what it may see.

use crate::telemetry::watches::{Kind, State, Watches};

/// One line a kind. What fails is marked `!`: unlike the checks of readiness it makes nobody unready.
pub(super) fn lines(watches: &Watches) -> String {
    let line = |kind: Kind| match kind.state {
        State::Synced => format!("[+]watch/{} synced, {} objects\n", kind.kind, kind.objects),
        State::Listing => format!("[ ]watch/{} listing\n", kind.kind),
        State::Failing { since, reason, advice } => {
            let since = humantime::format_rfc3339_seconds(since);
            format!("[!]watch/{} failing since {since}: {reason}; {advice}\n", kind.kind)
        }
    };
    watches.snapshot().into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_kind_is_a_line_with_what_to_do() {
        let watches = Arc::<Watches>::default();
        let (services, secrets) = (watches.watch("services", ""), watches.watch("secrets", ""));
        let _listing = watches.watch("ingresses", "");
        services.followed(3);
        secrets.failed("forbidden".to_owned(), "grant it".to_owned());
        let told = lines(&watches);
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told[0], "[ ]watch/ingresses listing");
        assert!(told[1].starts_with("[!]watch/secrets failing since 20"), "{told:?}");
        assert!(told[1].ends_with("Z: forbidden; grant it"), "{told:?}");
        assert_eq!(told[2], "[+]watch/services synced, 3 objects");
    }
}
