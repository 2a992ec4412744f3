# `make test`, `make demo` and `make bench` do all the set-up they need by themselves. Everything else is for developers.

.PHONY: test quick test-long release demo bench lint coverage venv lock reference fuzz clean

test: ## everything that must hold: lint, types, unit to end-to-end tests
	tools/with-setup dev tools/run-tests $(ARGS)

quick: ## lint, types, and the tests that start no process: what to run while working, under 90 s
	tools/with-setup dev tools/run-tests tests/unit tests/vectors $(ARGS)

test-long: ## what takes minutes: the firewall, the split and the whole way of a knock on other kernels, a real DNS64, the wheel
	tools/with-setup long tools/run-long-tests $(ARGS)

release: test test-long ## everything that is tried before a version is given out, then its wheel in dist/
	tools/with-setup dev .venv/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

demo: ## the whole story on this machine, in network namespaces of its own
	tools/with-setup run .venv/bin/openme demo

bench: ## what openme withstands and costs, beside fwknop: six minutes of a machine that does nothing else; ROWS="flood idle"
	tools/with-setup dev tools/run-bench $(ROWS)

lint: ## ruff and mypy alone
	tools/with-setup dev tools/lint

coverage: ## which lines the tests reach, in all processes; slow, and some tests that need speed fail
	tools/with-setup dev tools/coverage $(ARGS)

venv: ## the virtual environment with everything a developer needs
	tools/with-setup dev true

lock: venv ## renew the locked dependencies
	tools/lock

reference: venv ## write completions and manual pages anew, which are made from the commands and keys
	.venv/bin/python -m tools.reference

fuzz: ## a long run of the fuzzers, about an hour: every parser that strangers or users reach, with another seed each time
	OPENME_FUZZ_ROUNDS=200000 OPENME_FUZZ_SEED=$$(date +%s) tools/with-setup dev .venv/bin/pytest -q --timeout 0 tests/fuzz

clean:
	rm -rf .venv .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
