# Postern needs nothing to be built: the dependencies are installed in a stage of their own so that npm's cache
# stays out of the image. Optional dependencies are a Node.js for machines with an older one.
FROM node:24-slim AS dependencies
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --omit=optional --ignore-scripts

FROM node:24-slim
ENV NODE_ENV=production MALLOC_ARENA_MAX=2
WORKDIR /app
COPY --from=dependencies /app/node_modules node_modules
COPY package.json LICENSE ./
COPY bin bin
COPY migrations migrations
COPY src src
# The config files are not in the image: mount them at /app/config. What they call data/ is the volume.
RUN mkdir /data && chown node:node /data && ln -s /data data
USER node
VOLUME /data
EXPOSE 5080
# Where Management is configured, "http://127.0.0.1:<its port>/health/ready" tells more.
ENV HEALTH_URL=http://127.0.0.1:5080/
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s --retries=3 CMD ["node", "-e", "fetch(process.env.HEALTH_URL).then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))"]
# The heap: see docs/performance.md, "Memory".
CMD ["node", "--max-semi-space-size=8", "bin/postern.js", "start"]
