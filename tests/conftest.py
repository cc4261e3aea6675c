import pytest
@pytest.fixture(scope="session")
def kafka(): return "127.0.0.1:19192"
