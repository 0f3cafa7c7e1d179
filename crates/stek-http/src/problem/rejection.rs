//! What axum's extractors refuse, as problem documents: take `Result<Query<T>, QueryRejection>` in a
//! handler and use `?`.

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use http::StatusCode;

use super::Problem;
use crate::body::BodyTimeout;

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Problem::payload_too_large();
        }
        if has_cause::<BodyTimeout>(&rejection) {
            return Problem::request_timeout();
        }
        Problem::bad_request("the request body could not be read to its end")
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Problem::bad_request(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        if rejection.status().is_server_error() {
            // The handler asks for parameters that its route does not have.
            tracing::error!(error = %rejection, "path parameters do not fit the route");
            return Problem::internal();
        }
        Problem::bad_request(rejection.body_text())
    }
}

fn has_cause<E: std::error::Error + 'static>(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<E>() {
            return true;
        }
        next = error.source();
    }
    false
}
