//! How a failed operation is said to the one who asked: by cause, without what is inside. What is
//! inside is logged, once, here.

use std::time::Duration;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use stek_core::name::NameError;
use stek_core::policy::PolicyError;
use stek_http::Problem;
use stek_wire::DecodeError;

use crate::operations::OperationError;

/// How soon to ask again when the database or the clock stands in the way.
const RETRY: Duration = Duration::from_secs(5);

/// A problem document on its way out.
pub(super) struct Failure(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        Self(rejection.into())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.into())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.into())
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        Self(Problem::invalid_field(error.field, error.value, error.allowed))
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self(match error {
            DecodeError::Value { field, found, allowed } => {
                Problem::invalid_field(field, found.to_string(), allowed)
            }
            DecodeError::TooLong { .. } => Problem::payload_too_large(),
            error => Problem::bad_request(error.to_string()),
        })
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        Self(match &error {
            OperationError::NotFound(_) => Problem::not_found(),
            OperationError::Exists(_)
            | OperationError::Busy(_)
            | OperationError::Rotate(_)
            | OperationError::Revoke(_)
            | OperationError::TokenExists
            | OperationError::Ratchet(_)
            | OperationError::TooManyTokens
            | OperationError::TooManyGrants => Problem::conflict(error.to_string()),
            OperationError::Policy(broken) => invalid_policy(broken),
            OperationError::Clock(_) | OperationError::Store(_) | OperationError::Behind(_) => {
                log(&error);
                Problem::unavailable("the manager cannot act now; what is published stays", RETRY)
            }
            OperationError::Failed(_) => {
                log(&error);
                Problem::internal()
            }
        })
    }
}

fn invalid_policy(broken: &PolicyError) -> Problem {
    let (status, title) = (StatusCode::UNPROCESSABLE_ENTITY, "the policy breaks a relation");
    Problem::new(status, "invalid-policy", title).with_detail(broken.to_string()).with_field(
        broken.field(),
        broken.value().to_string(),
        broken.allowed(),
    )
}

fn log(error: &OperationError) {
    let error = error as &dyn std::error::Error;
    tracing::error!(error, "operation failed");
}
