//! Which token leads which way.

use crate::admission::{Admission, Presented};
use crate::way::Way;
use hyper::HeaderMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The ways that there are, each for those who have its token. Clones share them, so that they can change while a
/// [`Proxy`](crate::Proxy) serves.
#[derive(Clone, Default)]
pub struct Routes(Arc<RwLock<Vec<(Admission, Way)>>>);

impl Routes {
    /// These and no others.
    pub fn new(routes: impl IntoIterator<Item = (Admission, Way)>) -> Self {
        let all = Self::default();
        all.replace(routes);
        all
    }

    /// From the next request on, these and no others.
    pub fn replace(&self, routes: impl IntoIterator<Item = (Admission, Way)>) {
        let routes = routes.into_iter().collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// The way that a request's token opens. All are compared with it, whichever it is.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Option<Way> {
        let presented = Presented::of(headers)?;
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let all = routes.iter();
        all.fold(None, |found, (admission, way)| if admission.admits(&presented) { Some(way) } else { found }).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use hyper::header::HeaderValue;
    use sha2::{Digest, Sha256};
    use theazo_guest_protocol::forwarder::PORT_TOKEN_HEADER;

    fn route(token: &str, to: &str) -> (Admission, Way) {
        let admission = Admission::parse(&hex::encode(Sha256::digest(token))).unwrap();
        (admission, Way::new(to.parse().unwrap(), "lo").unwrap())
    }

    #[test]
    fn each_token_opens_its_own_way_for_as_long_as_there_is_one() {
        let routes = Routes::new([route("one", "127.0.0.1:1"), route("two", "127.0.0.1:2")]);
        let found = |token: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(PORT_TOKEN_HEADER, HeaderValue::from_static(token));
            routes.find(&headers).map(|way| format!("{way:?}"))
        };
        assert!(found("one").unwrap().contains("127.0.0.1:1") && found("two").unwrap().contains("127.0.0.1:2"));
        assert!(found("three").is_none() && routes.find(&HeaderMap::new()).is_none());
        routes.replace([route("two", "127.0.0.1:3")]);
        assert!(found("one").is_none() && found("two").unwrap().contains("127.0.0.1:3"));
        routes.replace([]);
        assert!(found("two").is_none());
    }
}
