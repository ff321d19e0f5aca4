//! A request's body within its limits, and what its headers say of it.

use crate::http::Failure;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Request, StatusCode};
use std::time::Duration;
use turnout_inference::binary;

/// Largest request body, bytes.
const BODY_MAX: usize = 64 << 20;
/// How long a client may take to send a body.
const BODY_DEADLINE: Duration = Duration::from_secs(30);
/// Says how many bytes of a body are JSON.
pub const JSON_LENGTH: HeaderName = HeaderName::from_static(binary::HEADER);

/// Where the JSON ends, for a body with binary tensors behind it.
///
/// # Errors
/// A header that is no number, or one that asks for what is not supported.
pub fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let bad = |message: String| Failure::new(StatusCode::BAD_REQUEST, message);
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return Err(bad(format!("Content-Encoding {encoding:?} is not supported, send the body as it is")));
    }
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.parse().ok()) {
        Some(0) => Err(bad(
            "a request without JSON (`Inference-Header-Content-Length: 0`) is not supported".to_owned()
        )),
        Some(length) => Ok(Some(length)),
        None => Err(bad(format!("`Inference-Header-Content-Length` is {value:?}, not a number of bytes"))),
    }
}

/// Reads the whole body; one that came in one piece is not copied.
///
/// # Errors
/// 413 beyond [`BODY_MAX`], 408 for a body that does not come, 400 for one that breaks off.
pub async fn read(request: Request<Incoming>) -> Result<Bytes, Failure> {
    let too_large =
        || Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_MAX} bytes"));
    let mut body = request.into_body();
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    let broken =
        |error: hyper::Error| Failure::new(StatusCode::BAD_REQUEST, format!("the body is broken: {error}"));
    let collect = async {
        let Some(first) = next_data(&mut body).await.map_err(broken)? else { return Ok(Bytes::new()) };
        if body.is_end_stream() {
            return Ok(first);
        }
        let mut whole = Vec::from(first);
        while let Some(more) = next_data(&mut body).await.map_err(broken)? {
            if whole.len() + more.len() > BODY_MAX {
                return Err(too_large());
            }
            whole.extend_from_slice(&more);
        }
        Ok(whole.into())
    };
    let late = |_| Failure::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    tokio::time::timeout(BODY_DEADLINE, collect).await.map_err(late)?
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = body.frame().await {
        // What is not data is a trailer, which means nothing here.
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}
