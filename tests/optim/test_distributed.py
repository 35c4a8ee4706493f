"""Data-parallel training keeps the rates of all processes equal; sharded parameters are refused."""

import multiprocessing
import sys
from functools import partial

import pytest
import torch
import torch.distributed as dist

from mmopt.optim import ASGDAdam

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed support")


def forks(test):
    """Two processes that share what is imported already."""
    test = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")(test)
    return pytest.mark.skipif(sys.platform != "linux", reason="needs a safe fork")(test)


def train(rank, file, results, wrap, scope):
    """One of two processes, each with its own batches; reports its base rates and parameters."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(file, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    model = torch.nn.parallel.DistributedDataParallel(net)
    optimizer = wrap(model.parameters(), warmup_steps=0, switch_interval=3, threshold=0.1, scope=scope)
    rates = []
    generator = torch.Generator().manual_seed(rank + 1)
    for _ in range(20):
        optimizer.zero_grad()
        (model(torch.randn(8, 5, generator=generator)) - 1).square().mean().backward()
        optimizer.step()
        rates += [rate.item() for rate in optimizer.base_rates()] if isinstance(optimizer, ASGDAdam) else []
    results.put((rates, torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()))
    results.close()
    results.join_thread()  # before anything is torn down: torch 2.6 sometimes hangs there
    dist.destroy_process_group()


def in_two_processes(file, wrap, scope):
    ASGDAdam(
        [torch.nn.Parameter(torch.zeros(1))]
    )  # torch imports much at the first optimizer: once, before forking
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=train, args=(rank, str(file), results, wrap, scope)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    both = [results.get(timeout=180) for _ in processes]
    for process in processes:
        process.join(timeout=10)
        process.kill()
    return both


@forks
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_two_processes_keep_the_same_rates(tmp_path, scope):
    one, two = in_two_processes(tmp_path / "store", ASGDAdam, scope)
    assert one == two
    assert len(set(one[0])) > 3


@forks
def test_parameters_dealt_out_whole_are_trained_as_in_one_process(tmp_path):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    dealt_out = partial(ZeroRedundancyOptimizer, optimizer_class=ASGDAdam, lr=1e-3)
    (_, one), (_, two) = in_two_processes(tmp_path / "dealt out", dealt_out, "tensor")
    (_, alone), _ = in_two_processes(tmp_path / "alone", ASGDAdam, "tensor")
    assert one == two == alone


@pytest.fixture
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_sharded_parameters_are_refused(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    sharded = torch.nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))
    with pytest.raises(
        ValueError, match=r"sharded over processes are not supported.*DistributedDataParallel"
    ):
        ASGDAdam([sharded])
    ASGDAdam([sharded], switch_rule="none", fused=False)


@pytest.mark.filterwarnings("ignore:FSDP is switching:UserWarning")
@pytest.mark.parametrize("original", [True, False])
def test_fully_sharded_modules_are_refused(mesh, original):
    from torch.distributed.fsdp import FullyShardedDataParallel

    module = FullyShardedDataParallel(
        torch.nn.Linear(3, 2), use_orig_params=original, device_id=torch.device("cpu"), device_mesh=mesh
    )
    with pytest.raises(ValueError, match="sharded"):
        ASGDAdam(module.parameters())
