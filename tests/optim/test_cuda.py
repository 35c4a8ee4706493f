"""On a GPU: no step waits for the device, and a captured graph does what the plain step does."""

import pytest
import torch

from mmopt.optim import ASGDAdam, ASGDAMSGrad

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FORMS = {"fused": {}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}}


def problem(complex_too=False):
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(n, generator=generator).cuda()) for n in (500, 70_000, 3)]
    if complex_too:
        parameters.append(torch.nn.Parameter(torch.ones(4, dtype=torch.complex64, device="cuda")))
    for p in parameters:
        p.grad = torch.zeros_like(p)
    noise = torch.Generator("cuda").manual_seed(1)

    def new_gradients():
        for p in parameters:
            p.grad.copy_(torch.randn(p.shape, device="cuda", dtype=p.dtype, generator=noise) + p.detach())

    return parameters, new_gradients


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    "more", [{}, {"scope": "tensor"}, {"capturable": True}, {"switch_rule": "switch"}], ids=str
)
def test_no_step_waits_for_the_device(build, form, more):
    parameters, new_gradients = problem(complex_too="foreach" in form)
    optimizer = build(parameters, switch_interval=2, warmup_steps=1, **form, **more)
    new_gradients()
    optimizer.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(4):
            new_gradients()
            optimizer.step()
            optimizer.alphas(), optimizer.base_rates(), optimizer.agreements()
    assert not [event.name for event in profile.events() if "_local_scalar_dense" in event.name]


@pytest.mark.parametrize("rule", ["published", "published_sc"])
@pytest.mark.filterwarnings("ignore:switch_rule='published:UserWarning")
def test_the_published_rules_do_not_wait_either(rule):
    parameters, new_gradients = problem()
    optimizer = ASGDAdam(parameters, switch_rule=rule)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        new_gradients()
        optimizer.step()
    assert not [event.name for event in profile.events() if "_local_scalar_dense" in event.name]


@pytest.mark.parametrize("build", [ASGDAdam, ASGDAMSGrad])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_a_captured_graph_equals_the_plain_step(build, form, scope):
    runs = []
    for captured in (False, True):
        parameters, new_gradients = problem()
        optimizer = build(parameters, capturable=True, scope=scope, switch_interval=3, warmup_steps=5, **form)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # state is made outside the graph
            for _ in range(3):
                new_gradients()
                optimizer.step()
        torch.cuda.current_stream().wait_stream(stream)
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                optimizer.step()
        rates = []
        for _ in range(30):
            new_gradients()
            graph.replay() if captured else optimizer.step()
            rates += [rate.item() for rate in optimizer.base_rates()]
        runs.append((rates, parameters))
    assert runs[0][0] == runs[1][0]
    assert len(set(runs[0][0])) > 3
    torch.testing.assert_close(runs[0][1], runs[1][1])


def test_capturing_without_capturable_is_refused():
    parameters, new_gradients = problem()
    optimizer = ASGDAdam(parameters)
    new_gradients()
    optimizer.step()
    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_gpu_goes_the_way_of_the_cpu(form):
    parameters, new_gradients = problem()
    twins = [torch.nn.Parameter(p.detach().cpu()) for p in parameters]
    gpu, cpu = ASGDAdam(parameters, **form), ASGDAdam(twins, **form)
    for _ in range(65):
        new_gradients()
        for twin, p in zip(twins, parameters, strict=True):
            twin.grad = p.grad.cpu()
        gpu.step()
        cpu.step()
    torch.testing.assert_close(
        torch.stack(gpu.agreements()).cpu(), torch.stack(cpu.agreements()), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(torch.stack(gpu.base_rates()).cpu(), torch.stack(cpu.base_rates()))
    torch.testing.assert_close([p.cpu() for p in parameters], twins, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_moves_between_devices():
    parameters, new_gradients = problem()
    gpu = ASGDAdam(parameters, capturable=True)
    new_gradients()
    gpu.step()
    cpu = ASGDAdam([torch.nn.Parameter(p.detach().cpu()) for p in parameters])
    cpu.load_state_dict(gpu.state_dict())
    group = cpu.param_groups[0]
    assert {group[name].device.type for name in ("base_rate", "alpha", "votes", "agreement")} == {"cpu"}
    for p in group["params"]:
        p.grad = torch.ones_like(p)
    cpu.step()
