"""The sections that are known, and what reads each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nbnorm.interop.darknet.cfg import Section
from nbnorm.interop.darknet.combining import Route, Sam, ScaleChannels, Shortcut
from nbnorm.interop.darknet.detection import Detection, GaussianYolo, Region, Yolo
from nbnorm.interop.darknet.elementwise import (
    Activated,
    Identity,
    L2norm,
    Logistic,
    Normalization,
    Softmax,
)
from nbnorm.interop.darknet.pooling import (
    Avgpool,
    Crop,
    LocalAvgpool,
    Maxpool,
    Reorg,
    Reorg3d,
    Upsample,
)
from nbnorm.interop.darknet.recurrent import Crnn, Gru, Lstm, Rnn
from nbnorm.interop.darknet.steps import Plan, Step
from nbnorm.interop.darknet.weighted import Batchnorm, Connected, Convolutional, Local

SECTIONS: Mapping[str, Callable[[Section, Plan], Step]] = {
    "Gaussian_yolo": GaussianYolo,
    "activation": Activated,
    "avgpool": Avgpool,
    "batchnorm": Batchnorm,
    "connected": Connected,
    "convolutional": Convolutional,
    "cost": Identity,
    "crnn": Crnn,
    "crop": Crop,
    "detection": Detection,
    "dropout": Identity,
    "empty": Identity,
    "gru": Gru,
    "l2norm": L2norm,
    "local": Local,
    "local_avgpool": LocalAvgpool,
    "logistic": Logistic,
    "lstm": Lstm,
    "maxpool": Maxpool,
    "normalization": Normalization,
    "region": Region,
    "reorg": Reorg,
    "reorg3d": Reorg3d,
    "rnn": Rnn,
    "route": Route,
    "sam": Sam,
    "scale_channels": ScaleChannels,
    "shortcut": Shortcut,
    "softmax": Softmax,
    "upsample": Upsample,
    "yolo": Yolo,
}
