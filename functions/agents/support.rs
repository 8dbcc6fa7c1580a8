//! What tests of several endpoints need.

use serde_json::Value;
use theazo_http::Fields;

/// The fields of a request with that body, which is an object.
pub(super) fn fields(body: &Value) -> Fields {
    let request = theazo_http::Request {
        id: theazo_tenancy::RequestId::make(),
        source_ip: None,
        raw_path: String::new(),
        params: Default::default(),
        raw_query: String::new(),
        headers: Default::default(),
        body: body.to_string().into(),
    };
    let Ok(fields) = request.fields(true) else { panic!("it is an object") };
    fields
}
