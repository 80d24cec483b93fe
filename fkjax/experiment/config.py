"""The settings of a run and their defaults."""

import dataclasses
from typing import Annotated, Literal

import tyro

from fkjax.experiment.stopping import Rule
from fkjax.training.fit import Schedule

_folder = tyro.conf.arg(metavar="DIR")

# Docstrings of two and more lines keep their line breaks in `--help`: 52 characters
# fit its column on a terminal of 80.


@dataclasses.dataclass(frozen=True)
class Config:
    """Active learning on a biased pool, in rounds of query, labeling and training.

    Every strategy runs on the same pools, pretrained weights and random seeds. The test
    accuracy is reported after each round. The defaults are those of the paper for
    MNIST; the digits have smaller ones, each model has its own taps and dropout, and a
    preset sets all of them. `--preset NAME --help` shows the defaults of a preset, and
    so does `--help` with --dataset or --model.

    fisher_oracle uses the hidden labels: it is an upper bound, not a strategy for
    practical use. `--checkpoint-selection test` keeps the epoch that is best on the
    test set; it exists for comparison with the paper, which did so. Every record
    contains the epoch that was kept.
    """

    preset: Literal["none", "paper-mnist", "paper-svhn", "paper-imagenet"] = "none"
    """Experiment of the paper whose settings are the
    defaults; other flags override them."""
    dataset: str = "digits"
    """Name of the dataset: digits (built in), mnist,
    fashion_mnist, svhn, cifar10, cifar100, a folder of
    images in DATA_DIR, or a dataset of TensorFlow
    Datasets."""
    data_dir: Annotated[str | None, _folder] = None
    """Folder that contains DATASET/, or the datasets
    prepared by TFDS; $FKJAX_DATA_DIR if not given."""
    image_size: int = 224
    """Height and width to which images of varying size are resized."""
    follow_links: bool = False
    """Follow links that lead out of a folder of images,
    too, as those of Hugging Face and DVC do into their
    caches."""
    oracle: Literal["dataset", "file"] = "dataset"
    """Source of the labels. dataset: the labels of the
    dataset, for an experiment. file: a person, who
    labels the images of IMAGES in
    OUTPUT_DIR/to_label.csv or in Label Studio. Each
    call of the command continues until labels are
    missing, prints which, and exits."""
    images: Annotated[str | None, _folder] = None
    """Folder of your own images; those that are not listed in LABELS form the pool."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file of known labels with the columns file and
    label, and optionally set, which is validation (the
    default), train or test."""
    new_classes: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")
    ] = ()
    """Classes that are not in LABELS but allowed as
    answers; more can be added to OUTPUT_DIR/classes.txt
    later."""
    label_studio: Literal["local-files", "embedded"] = "local-files"
    """How Label Studio reads the images: from a local
    storage of IMAGES, or embedded in its tasks."""
    keep_copies: bool = False
    """Query exact copies as other images. By default, they
    are queried last, except one of each that has no
    copy with a known label."""
    output_dir: Annotated[str | None, _folder] = None
    """Folder for records and figures; without it, none are
    written. Repeating the command resumes the run in
    the folder."""
    overwrite: bool = False
    """Delete the run in OUTPUT_DIR and start over."""
    distributed: bool = False
    """Run as one of several processes. Each is started
    with the same command and its own PROCESS_ID; only
    the first writes files and prints."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Address of the first process;
    $JAX_COORDINATOR_ADDRESS if not given. On Slurm,
    Open MPI and TPUs, JAX detects the values of this
    and the next two flags."""
    num_processes: int | None = None
    """Number of processes; $JAX_NUM_PROCESSES if not given."""
    process_id: int | None = None
    """Number of this process, counted from 0; $JAX_PROCESS_ID if not given."""
    strategies: tuple[str, ...] = ("random", "fisher_nearest")
    """Strategies to compare: random; feature_match,
    fisher_argmax, fisher_nearest, fisher_nearest_joint,
    fisher_oracle; with perturbed copies,
    fisher_covariance, fisher_information,
    fisher_information_diagonal; on the labels at hand,
    fisher_ratio, bait, logdet_mi, vtl, max_det,
    fisher_herding, class_need_margin, class_need_ratio,
    core_set, lcmd, flqmi, max_herding; by gradients,
    badge; by hidden labels, balance_oracle; with
    MC-dropout, variation_ratio, entropy, bald,
    mean_std, epig; with the model's probabilities,
    margin, least_confidence; with adversarial
    training, vaal."""
    seeds: int = 5
    """Number of runs of each strategy, with consecutive seeds."""
    seed: int = 0
    """Seed of all random choices; the first if there are several."""
    side_by_side: Literal["auto", "yes", "no"] = "auto"
    """Whether to run all seeds of a strategy as one
    program. auto: on GPU and TPU, but not on CPU or
    with streamed images."""
    rounds: int = 10
    """Number of rounds of query, labeling and training."""
    budget: int = 125
    """Number of examples to label in each round."""
    stop_when: Literal["budget", "plateau", "target-accuracy", "low-gain"] = "budget"
    """When to stop each run. budget: after the last round.
    The others stop earlier, by the accuracy on the
    validation set: target-accuracy when it reaches
    TARGET_ACCURACY; plateau when no round of the last
    PATIENCE is better than the best before; low-gain
    when these rounds gained less than MIN_GAIN."""
    target_accuracy: float = 0.95
    """Accuracy at which target-accuracy stops, as a fraction."""
    patience: int = 3
    """Number of last rounds that plateau and low-gain consider."""
    min_gain: float = 0.5
    """Gain in percentage points per 100 labels below which low-gain stops."""

    imbalance: Literal["step", "long_tail"] = "step"
    """Kind of imbalance of the pool. step: rare classes
    keep 1/IMBALANCE_RATIO of their images; long_tail:
    class sizes decrease exponentially by that ratio in
    total."""
    imbalance_ratio: float = 100.0
    """Ratio of the largest to the smallest class; 1 leaves the pool unchanged."""
    rare_classes: Annotated[
        tuple[int, ...] | None, tyro.conf.arg(metavar="INT [INT ...]")
    ] = None
    """Numbers of the rare classes; the second half if not given, as in the paper."""
    label_noise: float = 0.0
    """Probability that the oracle answers with a wrong class."""
    validation_size: int = 100
    """Number of class-balanced validation images, taken
    from the training part; 10,000 for MNIST in the
    paper."""
    validation_role: Literal["train", "hold-out"] = "train"
    """What the validation set is for. train: the model
    is trained on it, too, from round 0 on, and mistakes
    on it are those of models trained without a fifth of
    it. hold-out: it is never trained on, as in the
    paper."""
    prior_correction: Annotated[str, tyro.conf.arg(metavar="auto|counts|none|FILE")] = (
        "auto"
    )
    """Correction of predictions for the class shares of
    the validation set, where those of the labels
    differ. auto: its strength and temperature are
    chosen by held-out predictions; counts: both are 1;
    none: no correction. FILE: a CSV file of the class
    shares in deployment, with the columns class and
    share."""
    tuning_size: int = 0
    """Number of validation images reserved for --checkpoint-selection tuning."""

    random_share: float = 0.0
    """Fraction of each budget that is drawn at random, a
    safeguard if the validation set is small."""

    model: str = "lenet"
    """Model to train: lenet, resnet10, resnet10_7x7 (with
    a stem for large images) or resnet18."""
    ensemble: int = 1
    """Number of models in the ensemble that is trained and queried as one model."""
    taps: tuple[str, ...] = ("conv1", "conv2", "fc1")
    """Layers whose activations form the descriptors:
    conv1, conv2, fc1, logits of lenet; stage1 to
    stage4, pool, logits of the other models."""
    passes: int = 128
    """Number of passes of MC-dropout over the pool by each model of the ensemble."""
    vaal_steps: int = 1000
    """Number of training steps of the networks of vaal in each query."""
    copies: int = 128
    """Number of perturbed copies of each pool image for
    fisher_covariance, fisher_information and
    fisher_information_diagonal."""
    pretraining: Literal["rotation", "none"] = "rotation"
    """Self-supervised pretraining on the whole pool before the first round."""
    pretraining_epochs: int = 8
    """Number of epochs of pretraining."""
    pretraining_decay_every: int = 3
    """Number of epochs after which the learning rate of
    pretraining is divided by 10, repeatedly."""
    epochs: int = 50
    """Number of epochs of training in each round, which
    starts from the weights of the previous round."""
    decay_every: int = 15
    """Number of epochs after which the learning rate of
    training is divided by 10, repeatedly."""
    batch_size: int = 25
    """Number of images in a training step."""
    learning_rate: float = 0.05
    """Initial learning rate of stochastic gradient descent."""
    momentum: float = 0.5
    """Momentum of stochastic gradient descent."""
    weight_decay: float = 0.0
    """Multiple of the weights that is added to the gradient."""
    conv_dropout: float = 0.25
    """Dropout rate after each convolution block, in all training."""
    dense_dropout: float = 0.5
    """Dropout rate before the last layer, in all training."""
    precision: Literal["float32", "float64"] = "float32"
    """Floating-point type of the model, its gradients and
    the kernel; random draws are the same in both."""
    checkpoint_selection: Literal["last", "tuning", "test"] = "last"
    """Epoch to keep in each round. last: the last; tuning,
    test: the one with the best accuracy on the tuning
    images or the test set."""

    def training(self) -> Schedule:
        """Returns the schedule of training in each round."""
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_every=self.decay_every,
        )

    @property
    def trains_on_validation(self) -> bool:
        """Whether the model is trained on the validation set, too."""
        return self.validation_role == "train"

    @property
    def first_round(self) -> int:
        """The number of the first round: 0 if it trains on the validation set alone."""
        return 0 if self.trains_on_validation else 1

    def stop_rule(self) -> Rule:
        """Returns the parameters of the stop rule."""
        return Rule(self.target_accuracy, self.patience, self.min_gain)

    def rotation_pretraining(self) -> Schedule:
        """Returns the schedule of pretraining."""
        return self.training()._replace(
            epochs=self.pretraining_epochs, decay_every=self.pretraining_decay_every
        )
