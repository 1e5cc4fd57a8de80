// Unpacks the parts of the page and starts the networks in ONNX Runtime Web. No part is loaded from elsewhere.

const facts = JSON.parse(document.getElementById("facts").textContent);

// Unpack a part of the page, which is compressed by gzip and written in base64.
async function unpack(id) {
  const element = document.getElementById(id);
  const letters = atob(element.textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  element.remove();
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Start all networks. A network is {evaluate(images, count)} with the answers {probabilities, units}, one row per image.
async function startNetworks() {
  const address = URL.createObjectURL(new Blob([await unpack("runtime-script")], { type: "text/javascript" }));
  const ort = await import(address);
  URL.revokeObjectURL(address);
  ort.env.logLevel = "error";
  // More threads would need a server that sends special headers.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = (await unpack("runtime-wasm")).buffer;
  const networks = [];
  for (let number = 0; number < facts.networks.length; number++) {
    const session = await ort.InferenceSession.create(await unpack(`network-${number}-model`), { executionProviders: ["wasm"] });
    let last = Promise.resolve();
    const run = async (images, count) => {
      const input = new ort.Tensor("uint8", images, [count, ...facts.image_shape]);
      const { probabilities, units } = await session.run({ images: input });
      return { probabilities: probabilities.data, units: units?.data };
    };
    // One call after the other, because the game can ask while the occlusion map is computed.
    networks.push({ evaluate: (images, count) => (last = last.then(() => run(images, count))) });
  }
  return networks;
}
