//! Where this SDK makes another request than Go's of the same endpoint.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use aws_types::region::{Region, SigningRegion};

use super::go_url;

/// Sets right what is to be signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AsGo {
    /// The region to sign for, where the host is of another.
    pub(super) region: Option<String>,
    /// The address, to the letter.
    pub(super) uri: Option<String>,
    /// The query of the endpoint, to go with the request's own.
    pub(super) query: Option<String>,
}

impl Intercept for AsGo {
    fn name(&self) -> &'static str {
        "AsGo"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(uri) = &self.uri {
            context.request_mut().set_uri(uri.as_str())?;
        }
        if let Some(query) = &self.query {
            let uri = go_url::with_query(context.request().uri(), query);
            context.request_mut().set_uri(uri)?;
        }
        if let Some(region) = &self.region {
            let region = SigningRegion::from(Region::new(region.clone()));
            config.interceptor_state().store_put(region);
        }
        Ok(())
    }
}
