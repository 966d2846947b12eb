"""Small networks that use what networks use; ``factory(classes)`` as a user would write them."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d


def conv(cin, cout, kernel=3, **options):
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False, **options),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


class Net(nn.Module):
    """A stem of 8 channels, ``body``, global pooling and a classifier."""

    def __init__(self, classes, width=8):
        super().__init__()
        self.stem = conv(3, 8)
        self.head = nn.Linear(width, classes)

    def body(self, x):
        return x

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean([2, 3]))


class SharedConv(Net):
    """One convolution called twice, so that its input and output are the same channels."""

    def __init__(self, classes):
        super().__init__(classes)
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def body(self, x):
        return self.again(F.relu(self.again(x)))


class Split(Net):
    """Two parts whose sizes the program gives, with different layers, joined again."""

    def __init__(self, classes):
        super().__init__(classes, 16)
        self.wide = nn.Conv2d(8, 16, 1)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(10, 10, 3, padding=1)

    def body(self, x):
        a, b = torch.split(self.wide(x), [6, 10], dim=1)
        return torch.cat([self.left(a), self.right(b)], 1)


class CutSum(Net):
    """A concatenation of 6 and 10 channels added to 16: the 16 are two groups."""

    def __init__(self, classes):
        super().__init__(classes, 16)
        self.wide = nn.Conv2d(8, 16, 1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 10, 1)

    def body(self, x):
        return self.wide(x) + torch.cat([self.left(x), self.right(x)], 1)


class Chunk(Net):
    """Two equal halves by chunk, as in gated and CSP networks."""

    def __init__(self, classes):
        super().__init__(classes, 8)
        self.wide = nn.Conv2d(8, 16, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)

    def body(self, x):
        a, b = self.wide(x).chunk(2, dim=1)
        return self.depthwise(a) * torch.sigmoid(b)


class DepthMultiplier(Net):
    """A depthwise convolution that writes two channels for each, then a sum with another."""

    def __init__(self, classes):
        super().__init__(classes, 16)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.other = nn.Conv2d(8, 16, 1)

    def body(self, x):
        return self.depthwise(x) + self.other(x)


class Grouped(Net):
    """A grouped convolution behind a concatenation, with padding by name and dilation."""

    def __init__(self, classes):
        super().__init__(classes, 12)
        self.branch = nn.Conv2d(8, 4, 3, padding="same", dilation=2, padding_mode="reflect")
        self.grouped = nn.Conv2d(12, 12, 3, padding="same", groups=4)

    def body(self, x):
        return self.grouped(torch.cat((x, self.branch(x)), dim=1))


class SqueezeExcite(Net):
    """The form of the authors' code, with views and expand_as."""

    def __init__(self, classes):
        super().__init__(classes)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.Sigmoid())

    def body(self, x):
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class SpatialAttention(Net):
    """A mask out of the mean and maximum over channels (CBAM)."""

    def __init__(self, classes):
        super().__init__(classes)
        self.mask = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def body(self, x):
        top, _ = torch.max(x, dim=1, keepdim=True)
        mask = self.mask(torch.cat([torch.mean(x, dim=1, keepdim=True), top], dim=1))
        return x * torch.sigmoid(mask)


class Shuffled(Net):
    """Grouped convolutions with channel shuffles between, by hand and by layer."""

    def __init__(self, classes):
        super().__init__(classes, 12)
        self.one = nn.Conv2d(8, 12, 1, groups=2)
        self.two = nn.Conv2d(12, 12, 1, groups=2)
        self.shuffle = nn.ChannelShuffle(3)

    def body(self, x):
        x = self.one(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.shuffle(self.two(x))


class SplitAttention(Net):
    """Parts of the channels weighted and summed (ResNeSt, SKNet)."""

    def __init__(self, classes):
        super().__init__(classes)
        self.wide = nn.Conv2d(8, 16, 3, padding=1)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def body(self, x):
        x = self.wide(x)
        n, c, h, w = x.shape
        parts = x.reshape(n, 2, c // 2, h, w)
        gap = F.adaptive_avg_pool2d(parts.sum(dim=1), 1)
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(gap))))
        return (parts * gate.unsqueeze(1)).sum(1)


class UpSampled(Net):
    """Interpolation by a factor and to another tensor's size, pads, transposed convolution."""

    def __init__(self, classes):
        super().__init__(classes, 20)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(12, 8, 3, stride=2, output_padding=1)
        self.scaled = nn.Upsample(scale_factor=2, mode="bilinear")

    def body(self, x):
        low = F.relu6(self.down(F.avg_pool2d(x, 3, 1, 1)))
        up = F.interpolate(self.up(low), size=x.shape[2:], mode="nearest")
        twice = self.scaled(low)
        dy = x.size()[2] - twice.size()[2]
        twice = F.pad(twice, [0, dy, dy // 2, dy - dy // 2])
        return torch.cat([up + x, F.interpolate(twice, x.shape[-2:])], 1)


class PixelShuffled(Net):
    def __init__(self, classes):
        super().__init__(classes, 7)
        self.wide = nn.Conv2d(8, 28, 3, padding=1)
        self.shuffle, self.unshuffle = nn.PixelShuffle(2), nn.PixelUnshuffle(2)
        self.last = nn.Conv2d(28, 7, 1)

    def body(self, x):
        return self.last(self.unshuffle(self.shuffle(self.wide(x))))


class Norms(Net):
    """Every norm, PReLU with one and with many parameters, channels-last layers."""

    def __init__(self, classes):
        super().__init__(classes)
        self.group, self.single = nn.GroupNorm(4, 8), nn.GroupNorm(1, 8)
        self.each, self.instance = nn.GroupNorm(8, 8), nn.InstanceNorm2d(8, affine=True)
        self.layer, self.last = nn.LayerNorm(8), nn.Linear(8, 8)
        self.one, self.many = nn.PReLU(), nn.PReLU(8)
        self.response = nn.LocalResponseNorm(3)

    def body(self, x):
        x = self.one(self.single(self.group(x))) + self.many(self.instance(self.each(x)))
        y = self.last(self.layer(x.permute(0, 2, 3, 1)))
        return self.response(x + y.permute(0, 3, 1, 2))


class FlattenedScales(nn.Module):
    """After a flatten: one learnt scalar for all features, one for each, and a norm."""

    def __init__(self, classes):
        super().__init__()
        self.stem, self.pool = conv(3, 8), nn.AdaptiveAvgPool2d(4)
        self.one, self.norm = nn.PReLU(), nn.BatchNorm1d(128)
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.head = nn.Linear(128, classes)

    def forward(self, x):
        x = self.pool(self.stem(x)).flatten(1)
        return self.head(self.norm(self.one(x)) * self.scale)


class ChannelsFirstNorm(nn.Module):
    """The layer norm of ConvNeXt's authors, in both forms, with parameters of its own."""

    def __init__(self, width, by_hand):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.by_hand, self.width = by_hand, (width,)

    def forward(self, x):
        if not self.by_hand:
            x = x.permute(0, 2, 3, 1)
            x = F.layer_norm(x, normalized_shape=self.width, weight=self.weight, bias=self.bias)
            return x.permute(0, 3, 1, 2)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class OwnParameters(Net):
    """Layer scale, a scalar gate, a response norm and a buffer for the images' mean."""

    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.norms = nn.Sequential(ChannelsFirstNorm(8, True), ChannelsFirstNorm(8, False))
        self.scale = nn.Parameter(torch.full((8, 1, 1), 1e-6))
        self.gate = nn.Parameter(torch.zeros(1))
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, 8)) for _ in range(2))

    def body(self, x):
        y = self.norms(x).permute(0, 2, 3, 1)
        energy = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = self.gamma * (y * (energy / (energy.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + y
        return x + self.gate * (self.scale * y.permute(0, 3, 1, 2))

    def forward(self, x):
        return super().forward(2 * (x - self.mean) / 3)


class Frozen(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.norm = FrozenBatchNorm2d(8)

    def body(self, x):
        return self.norm(x)


class PlainNormThenReLU(nn.BatchNorm2d):
    def forward(self, input):
        return F.relu(super().forward(input))


class NormWithoutWeights(Net):
    """A norm of a class of its own that has buffers and no parameters."""

    def __init__(self, classes):
        super().__init__(classes)
        self.norm = PlainNormThenReLU(8, affine=False)

    def body(self, x):
        return self.norm(x)


class TakenApart(Net):
    """As plain PyTorch its norm is three functions, and its drop path nothing."""

    def __init__(self, classes):
        super().__init__(classes)
        self.norm, self.drop, self.act = LayerNorm2d(8), DropPath(), nn.SiLU()

    def body(self, x):
        x = self.act(self.act(self.norm(x)))
        return self.drop(x).permute(0, 1, 3, 2)


class PaddedShortcut(Net):
    """The shortcut of CIFAR ResNets without weights: every other pixel, zeros for channels."""

    def __init__(self, classes):
        super().__init__(classes, 16)
        self.main = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def body(self, x):
        return self.main(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class Sliced(Net):
    """Channels picked by number, by their count, and single ones; GLU."""

    def __init__(self, classes):
        super().__init__(classes, 11)
        self.wide, self.gated = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 8, 1)

    def body(self, x):
        wide = self.wide(x)
        half = self.gated(x)[:, : x.shape[1] // 2] + F.glu(x, dim=1)
        return torch.cat([wide[:, 5:], half - torch.unsqueeze(wide[:, 0], 1)], 1)

    def forward(self, x):
        first = torch.unsqueeze(x[:, 0], 1) * 0.5 + 0.1
        return super().forward(torch.cat((first, x[:, 1:]), 1))


class LeNet(nn.Module):
    """Height and width flattened into a linear layer; dropout and pooling as functions."""

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 30), nn.Linear(30, classes)
        self.norm = nn.BatchNorm1d(400)

    def forward(self, x, dropout=0.25):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), (2, 2))
        x = self.norm(x.view(x.size(0), -1))
        x = F.dropout(F.relu(self.fc1(x)), dropout, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class DroppedTwice(Net):
    """A dropout called as the one that takes the place of a function would be."""

    def __init__(self, classes):
        super().__init__(classes)
        self.dropout_layer = nn.Dropout(0.1)

    def forward(self, x):
        x = self.dropout_layer(self.stem(x).mean((2, 3)))
        return self.head(F.dropout(x, 0.7, self.training))


class DropPath(nn.Module):
    def forward(self, x):
        if not self.training:
            return x
        return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.5)


class EvenSize(nn.Module):
    """Gives up a row if their number is odd; without weights it may ask for shapes."""

    def forward(self, x):
        return x[:, :, 1:] if x.shape[2] % 2 else x


class SameConv(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, x):
        total = [(math.ceil(s / 2) - 1) * 2 + 3 - s for s in x.shape[2:]]
        pads = [max(0, t) // 2 for t in total for _ in range(2)]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, (2, 2), (1, 1))


class Regularised(Net):
    """A drop path, a subclass of a layer, an assertion, one tensor in two places."""

    def __init__(self, classes):
        super().__init__(classes, 16)
        self.drop, self.same, self.even = DropPath(), SameConv(8, 8, 3), EvenSize()

    def body(self, x):
        assert x.shape[1] > 2, "too few channels"
        x = self.even(self.same(x))
        return torch.cat([x, x], 1) + torch.cat([x + x, self.drop(x)], 1)


class Asserting(nn.Conv2d):
    def forward(self, x):
        assert x.shape[1] == self.in_channels
        return super().forward(x)


class Asserted(Net):
    """An assertion in a layer that an export writes out."""

    def __init__(self, classes):
        super().__init__(classes)
        self.sure = Asserting(8, 8, 3)

    def body(self, x):
        return self.sure(x)


class Auxiliary(Net):
    """A second classifier in training only."""

    def __init__(self, classes):
        super().__init__(classes)
        self.auxiliary = nn.Linear(8, classes)

    def forward(self, x):
        x = self.body(self.stem(x)).mean(3).mean(2)
        return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)


class UNet(nn.Module):
    """Two levels; the output has the images' size."""

    def __init__(self, classes):
        super().__init__()
        self.down = nn.ModuleList([conv(3, 8), conv(8, 16), conv(16, 32)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)]
        )
        self.merge = nn.ModuleList([conv(32, 16), conv(16, 8)])
        self.last = nn.Conv2d(8, classes, 1)

    def forward(self, x):
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([up(x), skip], dim=1))
        return self.last(x)


def googlenet_with_auxiliaries(classes):
    return models.googlenet(
        weights=None, num_classes=classes, aux_logits=True, transform_input=True, init_weights=False
    )


FOLLOWED = (
    SharedConv, Split, CutSum, Chunk, DepthMultiplier, Grouped, SqueezeExcite, SpatialAttention,
    Shuffled, SplitAttention, UpSampled, PixelShuffled, Norms, OwnParameters, Frozen,
    FlattenedScales, TakenApart, NormWithoutWeights, PaddedShortcut, Sliced, LeNet, Regularised,
    Auxiliary, UNet,
)  # fmt: skip


# Networks that are refused; what the message must name is in `REFUSED`.


class ConstantView(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.head(self.pool(self.stem(x)).view(-1, 8))


class ConstantFlatten(Net):
    def __init__(self, classes):
        super().__init__(classes, 8 * 16)

    def forward(self, x):
        return self.head(F.adaptive_avg_pool2d(self.stem(x), 4).reshape(x.shape[0], 8 * 16))


class ConstantExpand(Net):
    def body(self, x):
        return x * x.mean([2, 3], keepdim=True).expand(-1, 8, -1, -1)


class DataDependent(Net):
    def body(self, x):
        return x * 2 if x.mean() > 0 else x


class EvenOnly(nn.Conv1d):
    def forward(self, x):
        return x[:, :, 1:] if x.shape[2] % 2 else x


class ShapeDependent(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.inner = EvenOnly(8, 8, 1)

    def body(self, x):
        return self.inner(x)


class UnknownOp(Net):
    def body(self, x):
        return torch.fft.fft2(x).real


class UnknownLayer(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.sequence = nn.Conv1d(8, 8, 1)

    def body(self, x):
        return self.sequence(x.flatten(2)).unflatten(2, x.shape[2:])


class FunctionalConv(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.kernel = nn.Parameter(torch.ones(8, 8, 1, 1))

    def body(self, x):
        return F.conv2d(x, self.kernel)


class FunctionalNorm(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def body(self, x):
        return F.batch_norm(x, self.mean, self.var)


class BatchMixed(Net):
    def body(self, x):
        return x - x.mean(0, keepdim=True)


class SpatialLinear(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.mix = nn.Linear(32, 32)

    def body(self, x):
        return self.mix(x)


class Tied(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.two.weight = self.one.weight

    def body(self, x):
        return self.two(self.one(x))


class Reserved(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.parts = nn.ModuleDict({"class": nn.Conv2d(8, 8, 1)})

    def body(self, x):
        return self.parts["class"](x)


class Parametrised(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1))

    def body(self, x):
        return self.normed(x)


class PositionEmbedding(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.position = nn.Parameter(torch.zeros(8, 32, 32))

    def body(self, x):
        return x + self.position


class MadeWhileRunning(Net):
    def body(self, x):
        return x * torch.tensor(0.5)


class TwoInputs(Net):
    def forward(self, x, mask):
        return super().forward(x * mask)


class AnyInputs(Net):
    def forward(self, *x):
        return super().forward(x[0])


class Lazy(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.lazy = nn.LazyConv2d(8, 1)

    def body(self, x):
        return self.lazy(x)


class SeveralTensors(Net):
    def forward(self, x):
        return {"out": super().forward(x)}


class TwoOutputs(Net):
    def forward(self, x):
        x = self.stem(x)
        return self.head(x.mean([2, 3])), x


class WrongFeatures(Net):
    def __init__(self, classes):
        super().__init__(classes, 10)


class WrongNorm(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.norm = nn.BatchNorm2d(16)

    def body(self, x):
        return self.norm(x)


class PaddedByCount(Net):
    def body(self, x):
        return F.pad(x, (0, 0, 0, 0, 0, x.shape[1]))[:, :8]


class NoImages(Net):
    def forward(self, x):
        return self.head(torch.zeros(2, 8))


def raises(classes):
    raise RuntimeError("no weights file")


def not_a_network(classes):
    return [classes]


class OnlyOutputs(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.last = nn.Conv2d(3, classes, 1)

    def forward(self, x):
        return self.last(x).mean([2, 3])


REFUSED = {
    ConstantView: ("view", "constant 8", "flatten"),
    ConstantFlatten: ("reshape", "constant 128"),
    ConstantExpand: ("expand", "constant 8"),
    DataDependent: ("example_networks.py, line", "control flow"),
    ShapeDependent: ("layer inner", "example_networks.py, line", "control flow"),
    UnknownOp: ("fft", "not known"),
    UnknownLayer: ("layer sequence", "Conv1d"),
    FunctionalConv: ("parameter kernel", "(8, 8, 1, 1)"),
    FunctionalNorm: ("batch_norm", "layer"),
    BatchMixed: ("mean", "batch"),
    SpatialLinear: ("layer mix", "height or width"),
    Reserved: ("layer parts.class", "call 'class' otherwise, 'class_' for one"),
    Tied: ("layer two", "shares a parameter with one"),
    Parametrised: ("layer normed", "parametrisation"),
    PositionEmbedding: ("parameter position", "(8, 32, 32)"),
    MadeWhileRunning: ("_tensor_constant", "buffer"),
    TwoInputs: ("mask",),
    AnyInputs: ("(*x)",),
    Lazy: ("layer lazy", "channels"),
    SeveralTensors: ("one tensor",),
    TwoOutputs: ("one tensor",),
    WrongFeatures: ("layer head", "10"),
    WrongNorm: ("layer norm", "16"),
    PaddedByCount: ("pad", "numbers"),
    NoImages: ("_tensor_constant",),
    raises: ("RuntimeError", "no weights file"),
    not_a_network: ("nn.Module", "list"),
    OnlyOutputs: ("no width",),
}


class DeadEnd(Net):
    """A layer whose output nobody reads."""

    def __init__(self, classes):
        super().__init__(classes)
        self.dead = nn.Conv2d(8, 8, 1)

    def body(self, x):
        self.dead(x)
        return x
