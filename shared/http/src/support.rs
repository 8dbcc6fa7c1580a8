//! Callers and calls for this crate's own tests. Their table does not exist: what reads it fails.

use crate::{ApiError, Call, ErrorCode, Params, Pattern, Repeats, Request, RouteInfo};
use theazo_store::{Aws, AwsEndpoints, Credentials, RateLimits, Table};
use theazo_tenancy::{
    Claim, CredentialKind, CredentialRecord, IssuedKey, KeyId, Mode, Permissions, PlatformId, Principal, RequestId,
    make_api_key,
};

pub(crate) static ROUTE: RouteInfo = RouteInfo {
    name: "things",
    method: "GET",
    pattern: Pattern("/v1/things"),
    callers: &[crate::Caller::Platform],
    streams: false,
    repeats: Repeats::Harmless,
    query: &["limit", "cursor", "a", "b", "ab", "\""],
};

/// A proven caller.
pub(crate) struct Caller {
    platform: PlatformId,
    cursor_key: [u8; 32],
    pub(crate) principal: Principal,
}

impl Caller {
    fn make(platform: PlatformId, mode: Mode, cursor_key: [u8; 32]) -> Self {
        let key: IssuedKey = make_api_key(&platform, mode);
        let record = CredentialRecord {
            hash: key.hash,
            id: KeyId::make(),
            kind: CredentialKind::ApiKey,
            platform: platform.clone(),
            mode,
            expires_at_ms: None,
            cursor_key,
            permissions: Permissions { exec: true },
            epoch: 0,
        };
        let principal = Claim::parse(&key.text).unwrap().prove(Some(&record), 0).unwrap();
        Self { platform, cursor_key, principal }
    }

    /// The same platform's other mode.
    pub(crate) fn in_mode(&self, mode: Mode) -> Self {
        Self::make(self.platform.clone(), mode, self.cursor_key)
    }

    /// The same platform with another key for its cursors.
    pub(crate) fn with_cursor_key(&self, cursor_key: [u8; 32]) -> Self {
        Self::make(self.platform.clone(), Mode::Live, cursor_key)
    }
}

/// A caller of a platform of its own. All platforms have the same cursor key, so that it is not what tells them apart.
pub(crate) fn make_caller(mode: Mode) -> Caller {
    Caller::make(PlatformId::make(), mode, [7; 32])
}

pub(crate) fn make_request(path: &str, query: &str, body: &[u8]) -> Request {
    Request {
        id: RequestId::make(),
        source_ip: None,
        raw_path: path.to_owned(),
        params: Params::default(),
        raw_query: query.to_owned(),
        headers: http::HeaderMap::new(),
        body: bytes::Bytes::copy_from_slice(body),
    }
}

pub(crate) fn make_call(path: &str, query: &str) -> Call {
    make_call_of(make_request(path, query, b""))
}

pub(crate) fn make_call_of(request: Request) -> Call {
    // Port 1 of the loopback has no listener.
    let aws = Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None });
    Call::new(request, &ROUTE, Credentials::new(Table::new(&aws, "none"), RateLimits::default()))
}

/// The field that an `invalid_request` names; panics for anything else.
#[track_caller]
pub(crate) fn refused<T>(outcome: Result<T, ApiError>) -> String {
    let error = outcome.err().unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidRequest);
    error.details()["field"].as_str().unwrap().to_owned()
}
